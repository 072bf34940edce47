"""Where archives are: at an HTTPS address, in S3, Google Cloud Storage or Azure, or in a local file. Read by obstore.

Credentials come from the environment, by each store's usual names, or from the pod's identity.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store

from msd.contract.errors import MsdError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_FORMS = "https://HOST/PATH, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or file:///PATH"
_TIMEOUT_S = 30
_MAX_REDIRECTS, _MAX_RETRIES = 10, 5
_LONGEST_S = 86_400
RETRY: "RetryConfig" = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(seconds=1), "max_backoff": timedelta(seconds=30), "base": 2},
    "retry_timeout": timedelta(minutes=4),
}
# Each names credentials. Without any, requests to S3 are not signed, as a public bucket expects.
_AWS_IDENTITIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_ADVICE: dict[type[Exception], str] = {
    FileNotFoundError: "nothing is at this address",
    UnauthenticatedError: "it wants credentials, and those given, if any, are invalid",
    PermissionDeniedError: "the credentials, if any, do not allow it, or the signature of the address has expired",
}
_REFUSED = {404: _ADVICE[FileNotFoundError], 401: _ADVICE[UnauthenticatedError], 403: _ADVICE[PermissionDeniedError]}


class FetchError(MsdError):
    """The bundle cannot be fetched."""


class Content(NamedTuple):
    """An archive's size and bytes."""

    size: int
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class StoredArchive:
    """An archive in a store, and its name for messages."""

    store: "ObjectStore"
    key: str
    name: str

    def read(self) -> Content:
        """Return the archive; a connection that breaks is resumed if the store sends an ETag. Raises FetchError."""
        try:
            reply = obstore.get(self.store, self.key)
        except (BaseError, OSError, ValueError) as error:
            raise self._explained(error) from None
        return Content(reply.meta["size"], self._chunks(reply.stream(min_chunk_size=1)))

    def _chunks(self, stream: "obstore.BytesStream") -> Iterator[bytes]:
        try:
            yield from map(bytes, stream)
        except BaseError as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> FetchError:
        """Return the error without secrets: the store's own text holds the whole address."""
        text = str(error)
        first = re.sub(r"\?\S*", "", text.partition("\n")[0])
        if "InvalidCertificate" in text:
            advice = "its certificate is not trusted; name the authority's file in SSL_CERT_FILE"
        else:
            cause = re.search(r'message: "([^"]+)"', text)
            advice = _ADVICE.get(type(error), first + (f" ({cause[1]})" if cause else ""))
        return FetchError(f"{self.name}: {advice}")


def stored_archive(url: str, retry: "RetryConfig" = RETRY) -> StoredArchive:
    """Return the archive at a URL. Raises FetchError for an invalid URL or setting."""
    try:
        parts = urlsplit(url)
        has_login = parts.username is not None
    except ValueError:
        raise FetchError(f"{url!r}: not a URL; expected {_FORMS}") from None
    key = unquote(parts.path) if parts.scheme == "file" else parts.path.removeprefix("/")
    name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if has_login:
        raise FetchError(f"{name}: credentials do not belong into a URL; expected {_FORMS}")
    if parts.scheme in ("s3", "gs", "az") and (not parts.netloc or not key or key.endswith("/")):
        raise FetchError(f"{name}: names no object; expected {_FORMS}")
    try:
        store = _store(url, parts.scheme, parts.netloc, retry)
    except (BaseError, ValueError) as error:
        raise FetchError(f"{name}: {str(error).partition(chr(10))[0]}") from None
    if store is None:
        raise FetchError(f"{name or repr(url)}: unsupported; expected {_FORMS}")
    # An HTTP store's address is the whole URL, with its query, which may be a signature.
    return StoredArchive(store, "" if isinstance(store, HTTPStore) else key, name)


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def _end_of_redirects(url: str, token: str) -> str:
    """Return where redirects lead. Only the first host gets the token: the stores' client would send it to another one
    that redirects again. Raises ValueError."""
    first, opener = urlsplit(url)[:2], build_opener(_NoRedirects)
    for turn in range(_MAX_REDIRECTS):
        headers = {"Authorization": f"Bearer {token}"} if urlsplit(url)[:2] == first else {}
        try:
            opener.open(Request(url, headers=headers), timeout=_TIMEOUT_S).close()
            return url
        except HTTPError as reply:
            reply.close()
            found = reply.headers.get("Location", "") if 300 <= reply.code < 400 else ""
            if reply.code >= 500 and turn < _MAX_RETRIES:
                time.sleep(2**turn)
                continue
            if not found:
                raise ValueError(_REFUSED.get(reply.code, f"its server says {reply.code}")) from None
            url = urljoin(url, found)
            if urlsplit(url).scheme not in ("https", first[0]):
                raise ValueError("error following redirect: it leads to no address of this kind") from None
        except (OSError, HTTPException) as error:
            raise ValueError(f"cannot be reached ({error})") from None
    raise ValueError("error following redirect: too many")


def _store(url: str, scheme: str, bucket: str, retry: "RetryConfig") -> "ObjectStore | None":
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=_TIMEOUT_S),
        "read_timeout": timedelta(seconds=_TIMEOUT_S),
        "timeout": timedelta(seconds=_LONGEST_S),
    }
    if authorities := os.environ.get("SSL_CERT_FILE"):
        client["root_certificate"] = Path(authorities).read_bytes()
    match scheme:
        case "http" | "https":
            # Redirects from HTTPS to plain HTTP are refused.
            client["allow_http"] = scheme == "http"
            if token := os.environ.get("BUNDLE_TOKEN"):
                own, url = urlsplit(url)[:2], _end_of_redirects(url, token)
                if urlsplit(url)[:2] == own:
                    client["default_headers"] = {"authorization": f"Bearer {token}"}
            return HTTPStore(url, client_options=client, retry_config=retry)
        case "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
            client["allow_http"] = endpoint.startswith("http://")
            is_public = not any(os.environ.get(name) for name in _AWS_IDENTITIES)
            return S3Store(bucket, skip_signature=is_public, client_options=client, retry_config=retry)
        case "gs":
            return GCSStore(bucket, client_options=client, retry_config=retry)
        case "az":
            return AzureStore(bucket, client_options=client, retry_config=retry)
        case "file":
            return LocalStore("/")
    return None
