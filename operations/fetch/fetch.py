"""Fetches a bundle by its archive's SHA-256: download, compare, unpack, verify, and only then rename.

Downloads are bounded and resumed. A failure leaves nothing except, after a network error, the partial download for the
next try.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import Bundle, new_bundle
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file, write_text_atomic
from operations.fetch.archive import unpack
from operations.fetch.stores import FetchError, OutOfRange, StoredArchive, stored_archive
from service.trust import Trust

ORIGIN = "archive.sha256"
"""File beside the bundle's files that records their archive."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Fetched(NamedTuple):
    """The bundle, and whether it existed already."""

    bundle: Bundle
    was_there: bool


def fetch(url: str, digest: str, folder: Path, max_bytes: int, trust: Trust) -> Fetched:
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
            _fetch_bundle(stored_archive(url), sha256, folder, part, max_bytes, trust)
    except OSError as error:
        raise FetchError(f"{error.filename or folder}: {error.strerror or error}") from None
    return Fetched(trust.open(folder), was_there=False)


def _fetch_bundle(archive: StoredArchive, sha256: str, folder: Path, part: Path, max_bytes: int, trust: Trust) -> None:
    with new_bundle(folder) as temporary:
        download(archive, sha256, part, max_bytes)
        try:
            unpack(part, temporary, max_bytes)
            trust.open(temporary)
        except BundleError as error:
            raise BundleError(f"{archive.name}: the digest matches, but the bundle is invalid: {error}") from None
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
    try:
        return trust.open(folder) if (folder / ORIGIN).read_text("utf-8").strip() == sha256 else None
    except (OSError, UnicodeDecodeError, BundleError):
        return None


def download(archive: StoredArchive, digest: str, part: Path, max_bytes: int) -> None:
    """Download the archive to `part`, resuming an earlier download, over as many connections as bring something.

    Raises FetchError: the partial file stays if the store failed, and goes if the archive is another one.
    """
    has_restarted = False
    while True:
        had = _size(part)
        try:
            _append(archive, part, had, max_bytes)
        except OutOfRange:  # complete, or of another archive, or of a store that cannot resume
            if not had or has_restarted:
                raise
        except FetchError:
            if _size(part) <= had:
                raise
            continue
        found = sha256_file(part)
        if found == digest:
            return
        if not had or has_restarted:
            break
        os.truncate(part, 0)
        has_restarted = True
    size = part.stat().st_size
    part.unlink()
    raise FetchError(
        f"{archive.name}: its SHA-256 is sha256:{found} ({size} bytes), expected sha256:{digest}; nothing"
        " was unpacked. Use the digest that `msd pack` printed; if it is right, the archive was replaced"
    )


def _append(archive: StoredArchive, part: Path, had: int, max_bytes: int) -> None:
    size, chunks = archive.read(had)
    if size > max_bytes:
        part.unlink(missing_ok=True)
        raise FetchError(f"{archive.name}: has {size} bytes; the limit is {max_bytes} (--max-mb)")
    left, free = size - had, shutil.disk_usage(part.parent).free
    if left > free:
        raise FetchError(f"{archive.name}: {left} bytes are missing, but {part.parent} has room for {free}")
    with part.open("ab") as file:
        for chunk in chunks:
            file.write(chunk)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
