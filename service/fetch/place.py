"""Where an archive is: which address to ask, and what to show there, by the URL that a person gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.fetch.errors import FetchError
from service.fetch.oci import blob_address, registry_secrets
from service.fetch.s3 import object_address, s3_secrets
from service.fetch.web import Web, shown

_FORMS = "https://HOST/PATH, s3://BUCKET/KEY or oci://REGISTRY/REPOSITORY[:TAG]"


@dataclass(frozen=True)
class Place:
    """An address, its name for people, and what makes the secret headers of one request for it."""

    address: str
    name: str
    secrets: Callable[[], Mapping[str, str]]


def place_of(url: str, digest: str, environ: Mapping[str, str], web: Web) -> Place:
    """Where the archive of this SHA-256 is. Raises FetchError when the URL is of no form, or a registry says no."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.username is not None:
        why = "credentials do not belong into a URL" if host else "is not a URL"
        raise FetchError(f"{shown(url) if host else repr(url)}: {why}; it looks like {_FORMS}")
    if parts.scheme in ("http", "https"):
        token = environ.get("BUNDLE_TOKEN")
        return Place(url, shown(url), lambda: {"Authorization": f"Bearer {token}"} if token else {})
    if parts.scheme == "s3":
        address, region = object_address(parts.netloc, parts.path.lstrip("/"), environ)
        return Place(address, url, lambda: s3_secrets(address, region, environ))
    if parts.scheme in ("oci", "oci+http"):
        registry = f"{'https' if parts.scheme == 'oci' else 'http'}://{parts.netloc}"
        repository = parts.path.lstrip("/")
        secrets = registry_secrets(registry, repository.partition(":")[0], environ, web)
        return Place(blob_address(registry, repository, digest, secrets, web), url, lambda: secrets)
    raise FetchError(f"{shown(url)}: no way to fetch by {parts.scheme!r}; it looks like {_FORMS}")
