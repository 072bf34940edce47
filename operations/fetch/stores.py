"""Where archives are: at a URL, in S3 or what speaks like it, or in an OCI registry; and what to show there.

In a registry an archive is the blob of its own SHA-256, as `oras push` puts it there
(https://github.com/opencontainers/distribution-spec); credentials are those of a Docker configuration. Requests to S3
are signed by AWS's Signature Version 4 (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html),
with credentials of the environment, or those that a pod has by what it is: EKS Pod Identity, or a role for its service
account. The names of variables are AWS's, which sets them in the pod.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from operations.fetch.web import FetchError, Web, shown

_FORMS = "https://HOST/PATH, s3://BUCKET/KEY or oci://REGISTRY/REPOSITORY[:TAG]"
_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_MAX_BYTES = 4 * 2**20
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_AGENTS = ("169.254.170.23", "169.254.170.2", "fd00:ec2::23", "127.0.0.1", "::1", "localhost")
"""Addresses of node agents, which may be called without TLS: they are on the node itself."""
_MAX_CREDENTIAL_BYTES = 2**16
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class FetchAddress:
    """An address, its name for messages, and a function that makes the secret headers of one request."""

    address: str
    name: str
    secrets: Callable[[], Mapping[str, str]]


def place_of(url: str, digest: str, environ: Mapping[str, str], web: Web) -> FetchAddress:
    """Return where the archive of this SHA-256 is. Raises FetchError for an unknown form of URL, or if a registry
    refuses."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.username is not None:
        why = "credentials do not belong into a URL" if host else "is not a URL"
        raise FetchError(f"{shown(url) if host else repr(url)}: {why}; expected {_FORMS}")
    if parts.scheme in ("http", "https"):
        token = environ.get("BUNDLE_TOKEN")
        return FetchAddress(url, shown(url), lambda: {"Authorization": f"Bearer {token}"} if token else {})
    if parts.scheme == "s3":
        address, region = object_address(parts.netloc, parts.path.lstrip("/"), environ)
        # Made for each request: credentials of an identity expire within the hour.
        return FetchAddress(address, url, lambda: s3_secrets(address, region, with_identity(environ, region, web)))
    if parts.scheme in ("oci", "oci+http"):
        registry = f"{'https' if parts.scheme == 'oci' else 'http'}://{parts.netloc}"
        repository = parts.path.lstrip("/")
        secrets = registry_secrets(registry, repository.partition(":")[0], environ, web)
        return FetchAddress(blob_address(registry, repository, digest, secrets, web), url, lambda: secrets)
    raise FetchError(f"{shown(url)}: unsupported scheme {parts.scheme!r}; expected {_FORMS}")


def object_address(bucket: str, key: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the URL of an object, with the bucket in its path, and the region to sign for. Raises FetchError."""
    if not key or key.endswith("/"):
        raise FetchError(f"s3://{bucket}/{key}: names no object; expected s3://BUCKET/KEY")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise FetchError(f"AWS_ENDPOINT_URL_S3={endpoint}: not a URL; expected for example https://minio.storage:9000")
    base = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    return f"{base}/{quote(bucket)}/{quote(key, safe='/-_.~')}", region


def s3_secrets(
    address: str,
    region: str,
    environ: Mapping[str, str],
    now: float | None = None,
    signed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the signed headers for a GET now; none without credentials, as for a public bucket.

    `signed` are other headers that the signature covers.
    """
    key_id, key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key_id and not key:
        return {}
    if not key_id or not key:
        raise FetchError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together: one of them is missing")
    parts = urlsplit(address)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {"x-amz-content-sha256": _EMPTY, "x-amz-date": moment}
    if token := environ.get("AWS_SESSION_TOKEN"):
        sent["x-amz-security-token"] = token
    covered = dict(sorted({**sent, **(signed or {}), "host": parts.netloc}.items()))
    names = ";".join(covered)
    lines = "".join(f"{name}:{value}\n" for name, value in covered.items())
    request = "\n".join(("GET", parts.path, parts.query, lines, names, _EMPTY))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = _hmac(_signing_key(key, scope), text).hex()
    login = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope},SignedHeaders={names},Signature={signature}"
    return {**sent, "Authorization": login}


def _signing_key(key: str, scope: str) -> bytes:
    made = f"AWS4{key}".encode()
    for part in scope.split("/"):
        made = _hmac(made, part)
    return made


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def with_identity(environ: Mapping[str, str], region: str, web: Web) -> Mapping[str, str]:
    """Return the environment with current credentials of the pod's identity; unchanged if it has credentials, or the
    pod has no identity. Raises FetchError."""
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
        content = reply.read(_MAX_CREDENTIAL_BYTES)
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
        content = reply.read(_MAX_CREDENTIAL_BYTES).decode("utf-8", "replace")
    found = {}
    for name, tag in zip(_KEYS, ("AccessKeyId", "SecretAccessKey", "SessionToken"), strict=True):
        value = re.search(rf"<{tag}>\s*([^<\s]+)\s*</{tag}>", content)
        if value is None:
            raise FetchError(f"{address}: returned no credentials for {role}")
        found[name] = value[1]
    return found


def _token(name: str, environ: Mapping[str, str]) -> str:
    """Return the content of the file that a variable names; it is renewed from time to time."""
    place = environ.get(name)
    if not place:
        raise FetchError(f"{name}: not set; it names the file with the token of the pod's identity")
    try:
        return Path(place).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FetchError(f"{name}={place}: {getattr(error, 'strerror', None) or 'not a token'}") from None


def registry_secrets(registry: str, repository: str, environ: Mapping[str, str], web: Web) -> dict[str, str]:
    """Return the header that grants read access to a repository; none for a public one. Raises FetchError."""
    with web.open(f"{registry}/v2/", {}, {}, expected=401) as reply:
        challenge = reply.headers.get("WWW-Authenticate", "") if reply.status == 401 else ""
    if not challenge:
        return {}
    login = _login(urlsplit(registry).netloc, environ)
    if challenge.lower().startswith("basic"):
        return {"Authorization": f"Basic {login}"} if login else {}
    asked = dict(_PARAMETER.findall(challenge))
    realm = asked.get("realm", "")
    if not realm.startswith("https://" if registry.startswith("https://") else ("http://", "https://")):
        raise FetchError(f"{registry}: asks for a token from {shown(realm)!r}, which is not safe for credentials")
    query = urlencode({"service": asked.get("service", ""), "scope": f"repository:{repository}:pull"})
    secrets = {"Authorization": f"Basic {login}"} if login else {}
    document = _json(web, f"{realm}?{query}", {}, secrets)
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str):
        raise FetchError(f"{shown(realm)}: returned no token for {repository}")
    return {"Authorization": f"Bearer {token}"}


def blob_address(registry: str, repository: str, digest: str, secrets: Mapping[str, str], web: Web) -> str:
    """Return the URL of the blob. A tag must point to that blob. Raises FetchError."""
    if not _REPOSITORY.fullmatch(repository):
        raise FetchError(f"{registry}/{repository}: names no repository; expected oci://REGISTRY/REPOSITORY[:TAG]")
    name, _, tag = repository.partition(":")
    if tag:
        document = _json(web, f"{registry}/v2/{name}/manifests/{tag}", {"Accept": _MANIFESTS}, secrets)
        layers = document.get("layers")
        held = [str(layer.get("digest")) for layer in layers if isinstance(layer, dict)] if layers else []
        if f"sha256:{digest}" not in held:
            raise FetchError(
                f"{registry}/{repository}: holds {', '.join(held) or 'no layer'}, expected sha256:{digest}"
            )
    return f"{registry}/v2/{name}/blobs/sha256:{digest}"


def _json(web: Web, url: str, headers: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, Any]:
    with web.open(url, headers, secrets) as reply:
        content = reply.read(_MAX_BYTES)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FetchError(f"{shown(url)}: the reply is not a JSON object; is it a registry?")
    return document


def _login(host: str, environ: Mapping[str, str]) -> str | None:
    """Return user and password for a registry, in base64, from the Docker configuration in DOCKER_CONFIG."""
    folder = environ.get("DOCKER_CONFIG")
    if not folder:
        return None
    path = Path(folder) / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))["auths"]
        entry = found.get(host) or found.get(f"https://{host}")
        if not entry:
            return None
        if "auth" in entry:
            return base64.b64encode(base64.b64decode(entry["auth"], validate=True)).decode()
        return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    except OSError as error:
        raise FetchError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise FetchError(f"{path}: not a Docker configuration; expected {{'auths': {{HOST: {{'auth': …}}}}}}") from None
