"""An archive in an OCI registry: the blob of its own SHA-256, as `oras push` puts it there.

https://github.com/opencontainers/distribution-spec. Credentials are those of a Docker configuration.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from service.fetch.errors import FetchError
from service.fetch.web import Web, shown

_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_MAX_BYTES = 4 * 2**20
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def registry_secrets(registry: str, repository: str, environ: Mapping[str, str], web: Web) -> dict[str, str]:
    """The header by which a registry lets us read a repository; none where everybody may. Raises FetchError."""
    with web.open(f"{registry}/v2/", {}, {}, expected=(401,)) as reply:
        challenge = reply.headers.get("WWW-Authenticate", "") if reply.status == 401 else ""
    if not challenge:
        return {}
    login = _login(urlsplit(registry).netloc, environ)
    if challenge.lower().startswith("basic"):
        return {"Authorization": f"Basic {login}"} if login else {}
    asked = dict(_PARAMETER.findall(challenge))
    realm = asked.get("realm", "")
    if not realm.startswith("https://" if registry.startswith("https://") else ("http://", "https://")):
        raise FetchError(f"{registry}: wants a token from {shown(realm)!r}, which is no address to send credentials to")
    query = urlencode({"service": asked.get("service", ""), "scope": f"repository:{repository}:pull"})
    secrets = {"Authorization": f"Basic {login}"} if login else {}
    document = _json(web, f"{realm}?{query}", {}, secrets)
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str):
        raise FetchError(f"{shown(realm)}: gives no token for {repository}")
    return {"Authorization": f"Bearer {token}"}


def blob_address(registry: str, repository: str, digest: str, secrets: Mapping[str, str], web: Web) -> str:
    """The URL of the blob. Where there is a tag, it has to be of that very blob. Raises FetchError."""
    if not _REPOSITORY.fullmatch(repository):
        raise FetchError(f"{registry}/{repository}: names no repository; it looks like oci://REGISTRY/REPOSITORY[:TAG]")
    name, _, tag = repository.partition(":")
    if tag:
        document = _json(web, f"{registry}/v2/{name}/manifests/{tag}", {"Accept": _MANIFESTS}, secrets)
        layers = document.get("layers")
        held = [str(layer.get("digest")) for layer in layers if isinstance(layer, dict)] if layers else []
        if f"sha256:{digest}" not in held:
            raise FetchError(
                f"{registry}/{repository}: holds {', '.join(held) or 'no layer'}, not sha256:{digest} as was asked for"
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
        raise FetchError(f"{shown(url)}: answers with something else than a JSON object; is it a registry?")
    return document


def _login(host: str, environ: Mapping[str, str]) -> str | None:
    """User and password for a registry, in base64, from the Docker configuration in the folder DOCKER_CONFIG."""
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
        raise FetchError(
            f"{path}: is no Docker configuration; it looks like {{'auths': {{HOST: {{'auth': …}}}}}}"
        ) from None
