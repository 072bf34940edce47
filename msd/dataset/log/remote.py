"""Logs in S3, Google Cloud Storage or Azure, copied by obstore, the library that fetches bundles.

Credentials come from the environment, by each store's usual names, or from the machine's identity.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msd.dataset.problem import InitError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_URL = re.compile(r"(s3|gs|az)://([^/]*)/?(.*)")
_CHUNK_BYTES = 2**20
_RETRY: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(minutes=1)}
# Each names credentials. Without any, requests to S3 are not signed, as a public bucket expects.
_AWS_IDENTITIES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
)


def is_remote(place: str) -> bool:
    """Return whether a place is an object, or a prefix, of a store."""
    return _URL.fullmatch(place) is not None


@contextmanager
def local_copies(places: Sequence[str | None]) -> Iterator[list[Path | None]]:
    """Yield a path for each place: local ones as they are, remote ones as copies, which exist until the end. Raises
    InitError if a remote one cannot be read."""
    with TemporaryDirectory() as folder:
        paths = [_copy(place, Path(folder, str(number))) if place else None for number, place in enumerate(places)]
        yield paths


def _copy(place: str, folder: Path) -> Path:
    """Return a local path; of a prefix, which ends with a slash, a folder with all objects below it."""
    parts = _URL.fullmatch(place)
    if parts is None:
        return Path(place)
    scheme, bucket, key = parts.groups()
    if not bucket or not key:
        raise InitError(f"{place}: names no object; expected {scheme}://BUCKET/KEY, or {scheme}://BUCKET/PREFIX/")
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise InitError(f"{place}: needs the package obstore: pip install 'msd-ctr[fetch]'") from None
    # Each store's endpoint is the person's choice, by its usual name, and may be one of HTTP.
    client: ClientConfig = {"allow_http": True}
    is_public = scheme == "s3" and not any(os.environ.get(name) for name in _AWS_IDENTITIES)
    signature: S3Config = {"skip_signature": True} if is_public else {}
    is_prefix, path = key.endswith("/"), folder / Path(key).name
    try:
        store = from_url(f"{scheme}://{bucket}", config=signature, client_options=client, retry_config=_RETRY)
        keys = [found["path"] for batch in obstore.list(store, key) for found in batch] if is_prefix else [key]
        for name in keys:
            target = path / name.removeprefix(key) if is_prefix else path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for chunk in obstore.get(store, name).stream(min_chunk_size=_CHUNK_BYTES):
                    file.write(chunk)
    except (BaseError, OSError, ValueError) as error:
        why = "nothing is at this address" if isinstance(error, FileNotFoundError) else str(error).partition("\n")[0]
        raise InitError(f"{place}: cannot be read: {why}") from None
    if not keys:
        raise InitError(f"{place}: no object is below this prefix")
    return path
