"""Credentials for S3 that a pod has by what it is: EKS Pod Identity, or a role for its service account.

The names of variables are AWS's, which sets them in the pod. Does not know what is asked for with the credentials.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from service.fetch.web import FetchError, Web, shown

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_AGENTS = ("169.254.170.23", "169.254.170.2", "fd00:ec2::23", "127.0.0.1", "::1", "localhost")
"""Where a node's agent may be asked without TLS: on the node itself."""
_MAX_BYTES = 2**16


def with_identity(environ: Mapping[str, str], region: str, web: Web) -> Mapping[str, str]:
    """The environment with the credentials of the pod's identity, as they are now; as it is where it has some of its
    own, or the pod has no identity. Raises FetchError."""
    if any(environ.get(name) for name in _KEYS[:2]):
        return environ
    if agent := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return {**environ, **_from_agent(agent, environ, web)}
    if role := environ.get("AWS_ROLE_ARN"):
        return {**environ, **_from_sts(role, environ, region, web)}
    return environ


def _from_agent(agent: str, environ: Mapping[str, str], web: Web) -> dict[str, str]:
    """https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html"""
    parts = urlsplit(agent)
    if parts.scheme != "https" and parts.hostname not in _AGENTS:
        raise FetchError(f"AWS_CONTAINER_CREDENTIALS_FULL_URI={shown(agent)}: neither HTTPS nor an agent of this node")
    token = _token("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", environ)
    with web.open(agent, {}, {"Authorization": token}) as reply:
        content = reply.read(_MAX_BYTES)
    try:
        found = json.loads(content)
        return dict(zip(_KEYS, (str(found[name]) for name in ("AccessKeyId", "SecretAccessKey", "Token")), strict=True))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FetchError(f"{shown(agent)}: returned no credentials") from None


def _from_sts(role: str, environ: Mapping[str, str], region: str, web: Web) -> dict[str, str]:
    """https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html"""
    address = environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{quote(region)}.amazonaws.com"
    asked = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": environ.get("AWS_ROLE_SESSION_NAME") or "msd-fetch",
        "WebIdentityToken": _token("AWS_WEB_IDENTITY_TOKEN_FILE", environ),
    }
    with web.open(f"{address.rstrip('/')}/?{urlencode(asked)}", {}, {}) as reply:
        content = reply.read(_MAX_BYTES).decode("utf-8", "replace")
    found = {}
    for name, tag in zip(_KEYS, ("AccessKeyId", "SecretAccessKey", "SessionToken"), strict=True):
        value = re.search(rf"<{tag}>\s*([^<\s]+)\s*</{tag}>", content)
        if value is None:
            raise FetchError(f"{address}: returned no credentials for {role}")
        found[name] = value[1]
    return found


def _token(name: str, environ: Mapping[str, str]) -> str:
    """What the file says that a variable names, and that is made anew from time to time."""
    place = environ.get(name)
    if not place:
        raise FetchError(f"{name}: not set; it names the file with the token of the pod's identity")
    try:
        return Path(place).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FetchError(f"{name}={place}: {getattr(error, 'strerror', None) or 'not a token'}") from None
