"""A bundle as a tar file, optionally gzipped, whose bytes depend only on the bundle's files; and unpacking,
defensively: only regular files with a bundle's names.
"""

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from msd.contract.bundle import FILES, open_bundle
from msd.contract.errors import MsdError
from msd.contract.files import atomic_file, sha256_file

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
# Header bytes per member: GNU tar, bsdtar and Python write names and times into extra headers.
_MAX_HEADER_BYTES = 2**17
_MAX_MEMBERS = 100


class BundleArchiveError(MsdError):
    """Not a bundle archive, too large, or no room for it."""


def pack(folder: Path, path: Path) -> str:
    """Write the verified bundle in `folder` to `path`, and return its SHA-256. Raises BundleError, ArchiveError."""
    if not path.name.endswith(SUFFIXES):
        raise BundleArchiveError(f"{path}: its name must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    open_bundle(folder, rows=True)
    try:
        with atomic_file(path) as file:
            if path.suffix == ".tar":
                _write(folder, file)
            else:
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    _write(folder, packed)
    except OSError as error:
        raise BundleArchiveError(f"{path}: {error.strerror or error}") from None
    return sha256_file(path)


def _write(folder: Path, file: BinaryIO | gzip.GzipFile) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(FILES):
            if (folder / name).is_file():
                member = tarfile.TarInfo(name)
                member.size, member.mode = (folder / name).stat().st_size, 0o644
                with (folder / name).open("rb") as source:
                    tar.addfile(member, source)


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack a bundle into an empty `folder`, reading at most `max_bytes`. Raises BundleArchiveError."""
    with archive.open("rb") as file:
        is_packed = file.read(2) == _GZIP
        file.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=file) if is_packed else file, max_bytes)
        try:
            # As a stream: nothing is read twice, whatever the archive's structure.
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                _unpack_members(tar, stream, folder)
        except (tarfile.TarError, EOFError, RecursionError, ValueError, zlib.error, gzip.BadGzipFile) as error:
            raise BundleArchiveError(f"not a tar archive, or damaged: {error}") from None
        except OSError as error:
            raise BundleArchiveError(f"{folder}: {error.strerror or error}") from None


def _unpack_members(tar: tarfile.TarFile, stream: "_Bounded", folder: Path) -> None:
    for _ in range(_MAX_MEMBERS):
        stream.allow(_MAX_HEADER_BYTES)
        member = tar.next()
        if member is None:
            return
        stream.allow(member.size + _MAX_HEADER_BYTES)
        _unpack_member(tar, member, folder)
    raise BundleArchiveError(f"the archive holds more than {_MAX_MEMBERS} files and folders")


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.isdir() and len(parts) < 2 and ".." not in parts:
        return
    # tar also writes such prefixes, for `-C runs bundle`
    name = parts[-1] if len(parts) in (1, 2) and not member.name.startswith("/") and parts[0] != ".." else ""
    if not member.isreg() or member.issparse() or name not in FILES:
        raise BundleArchiveError(
            f"the archive holds {member.name[:200]!r}, which is not a file of a bundle; use `msd pack`"
        )
    source = tar.extractfile(member)
    assert source is not None  # a regular file has content
    try:
        with (folder / name).open("xb") as target:
            shutil.copyfileobj(source, target, 2**18)
    except FileExistsError:
        raise BundleArchiveError(f"the archive holds {name!r} twice") from None


class _Bounded(io.RawIOBase):
    """A stream that raises if too much is read: decompression bombs, and endless headers, which tarfile would hold in
    memory."""

    def __init__(self, source: BinaryIO | gzip.GzipFile, max_bytes: int) -> None:
        self._source, self._left, self._max = source, max_bytes, max_bytes
        # Opening a tar reads its first header.
        self._allowed = _MAX_HEADER_BYTES

    def allow(self, size: int) -> None:
        """Set how much may be read until the next call."""
        self._allowed = size

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        self._allowed -= len(data)
        if self._left < 0:
            raise BundleArchiveError(f"the archive unpacks to more than {self._max} bytes, the limit (--max-mb)")
        if self._allowed < 0:
            raise BundleArchiveError(f"the archive has a header of more than {_MAX_HEADER_BYTES} bytes")
        return data
