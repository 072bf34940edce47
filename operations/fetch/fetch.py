"""Fetches a bundle by its archive's SHA-256: download, compare, unpack, verify, and only then rename.

Downloads are bounded and resumed. A failure leaves nothing except, after a network error, the partial download for the
next try.
"""

import errno
import fcntl
import http.client
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import Bundle, new_bundle
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file, write_text_atomic
from operations.fetch.archive import unpack
from operations.fetch.stores import FetchAddress, place_of
from operations.fetch.web import FetchError, FetchUnavailable, Reply, Web
from service.trust import Trust

ORIGIN = "archive.sha256"
"""File beside the bundle's files that records their archive."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK = 2**18
_TRIES = 6
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Fetched(NamedTuple):
    """The bundle, and whether it existed already."""

    bundle: Bundle
    was_there: bool


def fetch(
    url: str, digest: str, folder: Path, max_bytes: int, trust: Trust, environ: Mapping[str, str] = os.environ
) -> Fetched:
    """Make `folder` the bundle whose archive has this digest. Raises MsdErrors that say what is wrong."""
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise FetchError(f"--digest: invalid digest {digest[:80]!r}; expected sha256:<64 hex digits>")
    sha256 = found[1]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent / f".{folder.name}.{sha256[:16]}.part") as part:
            if (bundle := _present(folder, sha256, trust)) is not None:
                part.unlink()
                return Fetched(bundle, was_there=True)
            _bring_bundle(place_of(url, sha256, environ, web := Web()), web, sha256, folder, part, max_bytes, trust)
    except OSError as error:
        raise FetchError(f"{error.filename or folder}: {error.strerror or error}") from None
    return Fetched(trust.open(folder), was_there=False)


def _bring_bundle(
    place: FetchAddress, web: Web, sha256: str, folder: Path, part: Path, max_bytes: int, trust: Trust
) -> None:
    with new_bundle(folder) as temporary:
        download(web, place, sha256, part, max_bytes)
        try:
            unpack(part, temporary, max_bytes)
            trust.open(temporary)
        except BundleError as error:
            raise BundleError(f"{place.name}: the digest matches, but the bundle is invalid: {error}") from None
        finally:
            part.unlink(missing_ok=True)
        write_text_atomic(temporary / ORIGIN, sha256 + "\n")


@contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Lock the partial archive; remove it if it stays empty."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(part, file.fileno()):  # its holder has finished
                continue
            try:
                yield part
            except OSError as error:
                if error.errno in _FULL:
                    part.unlink(missing_ok=True)
                raise
            finally:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _present(folder: Path, sha256: str, trust: Trust) -> Bundle | None:
    """Return the bundle that was unpacked earlier from that archive, if it is complete."""
    if _origin(folder) != sha256:
        return None
    try:
        return trust.open(folder)
    except BundleError:
        return None


def _origin(folder: Path) -> str | None:
    try:
        return (folder / ORIGIN).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def download(
    web: Web, place: FetchAddress, digest: str, part: Path, max_bytes: int, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Download the archive to `part`, resuming an earlier download.

    Raises FetchUnavailable if the server does not answer, keeping the partial file; FetchError if it is another
    archive, keeping nothing.
    """
    is_resumed = _size(part) > 0
    _bring(web, place, part, max_bytes, sleep)
    found = sha256_file(part)
    if found != digest and is_resumed:  # the partial file may belong to another archive
        os.truncate(part, 0)
        _bring(web, place, part, max_bytes, sleep)
        found = sha256_file(part)
    if found != digest:
        size = part.stat().st_size
        part.unlink()
        raise FetchError(
            f"{place.name}: its SHA-256 is sha256:{found} ({size} bytes), expected sha256:{digest}; nothing"
            " was unpacked. Use the digest that `msd pack` printed; if it is right, the archive was replaced"
        )


def _bring(web: Web, place: FetchAddress, part: Path, max_bytes: int, sleep: Callable[[float], None]) -> None:
    failed = 0
    while True:
        had = _size(part)
        try:
            return _bring_rest(web, place, part, max_bytes)
        except FetchUnavailable as error:
            failed = 1 if _size(part) > had else failed + 1
            if failed == _TRIES:
                raise FetchUnavailable(f"{error} (tried {_TRIES} times)") from None
            sleep(min(30.0, 0.5 * 2.0**failed))


def _bring_rest(web: Web, place: FetchAddress, part: Path, max_bytes: int) -> None:
    had = _size(part)
    headers = {"Range": f"bytes={had}-"} if had else {}
    # 416: the file is complete, or another one; the digest will tell.
    with web.open(place.address, headers, place.secrets(), expected=416) as reply:
        if reply.status == 416:
            return
        start, total = _extent(reply, had, place.name)
        if (total or 0) > max_bytes:
            part.unlink(missing_ok=True)
            raise FetchError(f"{place.name}: has {total} bytes; the limit is {max_bytes} (--max-mb)")
        left, free = (total or 0) - start, shutil.disk_usage(part.parent).free
        if left > free:
            raise FetchError(f"{place.name}: {left} bytes are missing, but {part.parent} has room for {free}")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _copy(reply, file.write, max_bytes - start, place, part)
    if total is not None and _size(part) < total:
        raise FetchUnavailable(f"{place.name}: download interrupted at {_size(part)} of {total} bytes")


def _extent(reply: Reply, had: int, name: str) -> tuple[int, int | None]:
    """Return the offset of the reply's body in the file, and the total size, if known."""
    if reply.status == 206:
        found = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if not found or int(found[1]) != had:
            raise FetchError(f"{name}: the server returned another byte range than requested")
        return had, None if found[2] == "*" else int(found[2])
    length = reply.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(reply: Reply, write: Callable[[bytes], object], room: int, place: FetchAddress, part: Path) -> None:
    while True:
        try:
            chunk = reply.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise FetchUnavailable(f"{place.name}: connection lost ({str(error) or type(error).__name__})") from None
        if not chunk:
            return
        room -= len(chunk)
        if room < 0:
            part.unlink(missing_ok=True)
            raise FetchError(f"{place.name}: has more bytes than the limit (--max-mb)")
        write(chunk)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
