"""Fetches a bundle by its archive's SHA-256: download, compare, unpack, verify, and only then rename.

Downloads are bounded. A failure leaves nothing.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import Bundle, new_bundle
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file, write_text_atomic
from operations.fetch.archive import unpack
from operations.fetch.stores import FetchError, StoredArchive, stored_archive
from service.trust import Trust

ORIGIN = "archive.sha256"
"""File beside the bundle's files that records their archive."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


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
        if (bundle := _present(folder, sha256, trust)) is not None:
            return Fetched(bundle, was_there=True)
        _fetch_bundle(stored_archive(url), sha256, folder, max_bytes, trust)
    except OSError as error:
        raise FetchError(f"{error.filename or folder}: {error.strerror or error}") from None
    return Fetched(trust.open(folder), was_there=False)


def _fetch_bundle(archive: StoredArchive, sha256: str, folder: Path, max_bytes: int, trust: Trust) -> None:
    with new_bundle(folder) as temporary:
        # Beside the new folder: removed with its parent.
        packed = temporary.parent / "archive"
        download(archive, sha256, packed, max_bytes)
        try:
            unpack(packed, temporary, max_bytes)
            trust.open(temporary)
        except BundleError as error:
            raise BundleError(f"{archive.name}: the digest matches, but the bundle is invalid: {error}") from None
        write_text_atomic(temporary / ORIGIN, sha256 + "\n")


def _present(folder: Path, sha256: str, trust: Trust) -> Bundle | None:
    """Return the bundle that was unpacked earlier from that archive, if it is complete."""
    try:
        return trust.open(folder) if (folder / ORIGIN).read_text("utf-8").strip() == sha256 else None
    except (OSError, UnicodeDecodeError, BundleError):
        return None


def download(archive: StoredArchive, digest: str, path: Path, max_bytes: int) -> None:
    """Download the archive to a new file. Raises FetchError if the store fails, or the archive is another one."""
    size, chunks = archive.read()
    if size > max_bytes:
        raise FetchError(f"{archive.name}: has {size} bytes; the limit is {max_bytes} (--max-mb)")
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise FetchError(f"{archive.name}: has {size} bytes, but {path.parent.parent} has room for {free}")
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            if file.tell() > size:
                raise FetchError(f"{archive.name}: its server sends more than the {size} bytes that it announces")
    found = sha256_file(path)
    if found != digest:
        raise FetchError(
            f"{archive.name}: its SHA-256 is sha256:{found} ({path.stat().st_size} bytes), expected sha256:{digest};"
            " nothing was unpacked. Use the digest that `msd pack` printed; if it is right, the archive was replaced"
        )
