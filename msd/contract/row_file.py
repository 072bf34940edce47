"""All rows of one side in one memory-mapped file: rows sorted by the hash of their id, the ids to prove it, and a
checksum for every block, which is looked at when the block is first touched.

Layout: magic, header length, JSON header padded to 64 bytes, then the sections in the order of `_Header`.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from msd.contract.errors import BundleError
from msd.contract.files import atomic_file
from msd.contract.hashing import hash_strings
from msd.contract.rows import Records, RowCodec, Rows, pack_history

_MAGIC = b"MSDROWS1"
_PREFIX = struct.Struct("<8sI")
_BLOCK = 16_384
_ALIGNMENT = 64
_MAX_HEADER = 65_536


class _Section(NamedTuple):
    start: int
    size: int


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bundle_id: str
    side: str
    count: int
    record_dtype: str
    hashes: _Section
    id_ends: _Section
    row_ends: _Section
    ids: _Section
    rows: _Section
    checksums: _Section

    @model_validator(mode="after")
    def _sections_follow_each_other(self) -> Self:
        sections = (self.hashes, self.id_ends, self.row_ends, self.ids, self.rows, self.checksums)
        starts = list(accumulate((section.size for section in sections), initial=0))
        if [section.start for section in sections] != starts[:-1] or min(section.size for section in sections) < 0:
            raise ValueError("sections overlap")
        if any(section.size != 8 * self.count for section in sections[:3]):
            raise ValueError("sections do not fit the count")
        if self.checksums.size != 4 * -(-self.checksums.start // _BLOCK):
            raise ValueError("there is not one checksum a block")
        return self


def write_row_file(
    path: Path,
    codec: RowCodec,
    bundle_id: str,
    ids: Sequence[str],
    records: Records,
    histories: Sequence[Sequence[str]],
) -> None:
    """Writes rows and their index. `ids` are unique, `records` [n] packed by `codec`, `histories` empty for items."""
    if len(set(ids)) != len(ids):
        raise BundleError(f"{path.name}: an id occurs twice")
    hashes = hash_strings(ids)
    order = np.argsort(hashes, kind="stable")
    encoded = [ids[position].encode() for position in order]
    tails = [pack_history(histories[position]) if histories else b"" for position in order]
    rows = [records[position].tobytes() + tail for position, tail in zip(order, tails, strict=True)]
    sections = {
        "hashes": hashes[order].astype("<u8").tobytes(),
        "id_ends": np.cumsum([len(one) for one in encoded], dtype="<u8").tobytes(),
        "row_ends": np.cumsum([len(row) for row in rows], dtype="<u8").tobytes(),
        "ids": b"".join(encoded),
        "rows": b"".join(rows),
    }
    body = b"".join(sections.values())
    sections["checksums"] = np.array(
        [zlib.crc32(body[start : start + _BLOCK]) for start in range(0, len(body), _BLOCK)], "<u4"
    ).tobytes()
    places: dict[str, _Section] = {}
    start = 0
    for name, data in sections.items():
        places[name] = _Section(start, len(data))
        start += len(data)
    header = (
        _Header(bundle_id=bundle_id, side=codec.side, count=len(ids), record_dtype=str(codec.dtype.descr), **places)
        .model_dump_json()
        .encode()
    )
    header += b" " * (
        -(_PREFIX.size + len(header)) % _ALIGNMENT
    )  # searching unaligned hashes would copy them each time
    with atomic_file(path) as file:
        file.write(_PREFIX.pack(_MAGIC, len(header)))
        file.write(header)
        file.write(body)
        file.write(sections["checksums"])


class RowFile:
    """Reads the rows of one side. Opening reads the header, the hashes and the checksums, not the rows."""

    def __init__(self, path: Path, codec: RowCodec, bundle_id: str) -> None:
        self._path = path
        self._codec = codec
        header, base = _read_header(path)
        expected = {"bundle_id": bundle_id, "side": codec.side, "record_dtype": str(codec.dtype.descr)}
        for name, value in expected.items():
            if getattr(header, name) != value:
                raise BundleError(f"{path}: {name} is {getattr(header, name)!r}, this bundle needs {value!r}")
        if path.stat().st_size != base + header.checksums.start + header.checksums.size:
            raise BundleError(f"{path}: the file is truncated or longer than its header says; copy the bundle again")
        body_size = header.checksums.start
        whole = np.asarray(np.memmap(path, np.uint8, "r"))  # a plain array: indexing a memmap costs twice as much
        self._body = whole[base : base + body_size]
        self._checksums = whole[base + body_size :].view("<u4")
        self._checked = np.zeros(len(self._checksums), bool)
        self._hashes = self._section(header.hashes).view("<u8")
        self._id_ends = self._section(header.id_ends).view("<u8")
        self._ids = header.ids
        self._row_ends = self._section(header.row_ends).view("<u8")
        self._rows = header.rows
        self.count = header.count
        ends = ((self._id_ends, self._ids), (self._row_ends, self._rows))
        if any((int(end[-1]) if self.count else 0) != section.size for end, section in ends):
            raise BundleError(f"{path}: the header is damaged; copy the bundle again")

    def get(self, ids: Sequence[str]) -> Rows:
        """The rows of `ids`, in their order. Raises BundleError when a block that they touch is damaged."""
        return self._codec.unpack(self.raw(ids))

    def raw(self, ids: Sequence[str]) -> list[bytes | None]:
        """The bytes of the rows of `ids`, in their order, None where the file has none."""
        return [self._row(place) if place >= 0 else None for place in self._places(ids)]

    def scan(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Ids and raw rows by their place in the file, for copying them elsewhere."""
        return [(self._id(place).decode(), self._row(place)) for place in range(start, min(stop, self.count))]

    def _places(self, ids: Sequence[str]) -> list[int]:
        """The place of each id in the file, −1 where the file has none: by hash, then proved by the id itself."""
        hashes = hash_strings(ids)
        firsts = np.searchsorted(self._hashes, hashes)
        places = []
        for item_id, value, first in zip(ids, hashes, firsts.tolist(), strict=True):
            encoded = item_id.encode()
            place = first
            while place < self.count and self._hashes[place] == value and self._id(place) != encoded:
                place += 1
            places.append(place if place < self.count and self._hashes[place] == value else -1)
        return places

    def _id(self, place: int) -> bytes:
        start = int(self._id_ends[place - 1]) if place else 0
        return self._bytes(self._ids.start + start, self._ids.start + int(self._id_ends[place]))

    def _row(self, place: int) -> bytes:
        start = int(self._row_ends[place - 1]) if place else 0
        return self._bytes(self._rows.start + start, self._rows.start + int(self._row_ends[place]))

    def _section(self, section: _Section) -> NDArray[np.uint8]:
        self._check(section.start, section.start + section.size)
        return self._body[section.start : section.start + section.size]

    def _bytes(self, start: int, stop: int) -> bytes:
        self._check(start, stop)
        return self._body[start:stop].tobytes()

    def _check(self, start: int, stop: int) -> None:
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            if not self._checked[block]:
                found = zlib.crc32(self._body[block * _BLOCK : (block + 1) * _BLOCK].tobytes())
                if found != self._checksums[block]:
                    raise BundleError(f"{self._path}: block {block} is damaged; copy the bundle again")
                self._checked[block] = True


def _read_header(path: Path) -> tuple[_Header, int]:
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                raise BundleError(f"{path}: not a rows file; it ends after {len(prefix)} bytes")
            magic, length = _PREFIX.unpack(prefix)
            if magic != _MAGIC or length > _MAX_HEADER:
                raise BundleError(f"{path}: not a rows file of this format ({_MAGIC.decode()})")
            return _Header.model_validate(json.loads(file.read(length))), _PREFIX.size + length
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the header is damaged") from error
