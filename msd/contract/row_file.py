"""All rows of one side in one memory-mapped file: an index of ids, the ids to prove what it says, the rows, and a
checksum for every block, which is looked at when the block is first touched.

Layout: magic, header length and checksum, JSON header padded to 64 bytes, then the sections in the order of `_Header`.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msd.contract.checked_file import BLOCK, CheckedFile, Place, Section, checksums_of
from msd.contract.errors import BundleError
from msd.contract.files import atomic_file
from msd.contract.id_index import WINDOW, WORD, EncodedIds, IdIndex, build_index, encode_ids
from msd.contract.rows import Records, RowCodec, Rows, pack_history

_MAGIC = b"MSDROWS2"
_PREFIX = struct.Struct("<8sII")
_ALIGNMENT = 64
_MAX_HEADER = 65_536


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bundle_id: str
    side: str
    count: Annotated[int, Field(ge=0, lt=2**32 - 1)]
    record_dtype: str
    homes: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    slots: Place
    id_starts: Place
    row_starts: Place
    ids: Place
    rows: Place
    checksums: Place

    @model_validator(mode="after")
    def _sections_follow_each_other(self) -> Self:
        sections = (self.slots, self.id_starts, self.row_starts, self.ids, self.rows, self.checksums)
        starts = list(accumulate((section.size for section in sections), initial=0))
        if [section.start for section in sections] != starts[:-1] or min(section.size for section in sections) < 0:
            raise ValueError("sections overlap")
        if self.slots.size % 8 or self.slots.size // 8 < self.homes + WINDOW:
            raise ValueError("the index has fewer slots than homes")
        if self.id_starts.size != _start_type(self.ids.size - WORD).itemsize * (self.count + 1):
            raise ValueError("the ids do not fit the count")
        # Rows that are all of one length need no starts.
        if self.row_starts.size not in (0, _start_type(self.rows.size).itemsize * (self.count + 1)):
            raise ValueError("the rows do not fit the count")
        if self.checksums.size != 4 * -(-self.checksums.start // BLOCK):
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
    seed = int(bundle_id[-16:], 16)
    index = build_index(encode_ids(ids), seed)
    encoded = [ids[row].encode() for row in index.order]
    id_bytes = b"".join(encoded) + b"\0" * WORD
    rows, row_starts = records[index.order].tobytes(), b""
    if codec.side == "user":
        whole = [records[row].tobytes() + pack_history(histories[row]) for row in index.order]
        rows, row_starts = b"".join(whole), _starts(whole)
    sections = {
        "slots": index.slots.astype("<u8").tobytes(),
        "id_starts": _starts(encoded),
        "row_starts": row_starts,
        "ids": id_bytes,
        "rows": rows,
    }
    body = b"".join(sections.values())
    sections["checksums"] = checksums_of(body)
    places: dict[str, Place] = {}
    start = 0
    for name, data in sections.items():
        places[name] = Place(start, len(data))
        start += len(data)
    layout = {"bundle_id": bundle_id, "side": codec.side, "count": len(ids), "record_dtype": str(codec.dtype.descr)}
    header = _Header.model_validate({**layout, "homes": index.homes, "seed": seed, **places}).model_dump_json().encode()
    # Looking slots up where they are not aligned would copy them each time.
    header += b" " * (-(_PREFIX.size + len(header)) % _ALIGNMENT)
    with atomic_file(path) as file:
        file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)))
        file.write(header)
        file.write(body)
        file.write(sections["checksums"])


def _starts(parts: Sequence[bytes]) -> bytes:
    """Where each part begins, and where the last one ends [n + 1]."""
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return starts.astype(_start_type(int(starts[-1]))).tobytes()


def _start_type(size: int) -> np.dtype[Any]:
    """Of starts in a section of so many bytes: ids of ten million items need no eight bytes each."""
    return np.dtype("<u4" if size < 2**32 else "<u8")


class RowFile:
    """Reads the rows of one side. Opening reads the header and the checksums; all else when it is first touched."""

    def __init__(self, path: Path, codec: RowCodec, bundle_id: str) -> None:
        self._codec = codec
        header, base = _read_header(path)
        expected = {"bundle_id": bundle_id, "side": codec.side, "record_dtype": str(codec.dtype.descr)}
        for name, value in expected.items():
            if getattr(header, name) != value:
                raise BundleError(f"{path}: {name} is {getattr(header, name)!r}, this bundle needs {value!r}")
        if path.stat().st_size != base + header.checksums.start + header.checksums.size:
            raise BundleError(f"{path}: the file is truncated or longer than its header says; copy the bundle again")
        file = CheckedFile(path, base, header.checksums.start)
        self.count = header.count
        self._index = IdIndex(file.section(header.slots), header.homes, header.seed)
        self._ids = _Parts(
            file.section(header.id_starts), file.section(header.ids), _start_type(header.ids.size - WORD)
        )
        self._rows = _Parts(file.section(header.row_starts), file.section(header.rows), _start_type(header.rows.size))
        self._fixed = not header.row_starts.size
        whole = [self._ids.ends_at() == header.ids.size - WORD]
        if self._fixed:
            whole.append(header.rows.size == self.count * codec.dtype.itemsize)
        else:
            whole.append(self._rows.ends_at() == header.rows.size)
        if not all(whole):
            raise BundleError(f"{path}: the header is damaged; copy the bundle again")

    def get(self, ids: Sequence[str]) -> Rows:
        """The rows of `ids`, in their order. Raises BundleError when a block that they touch is damaged."""
        if not self._fixed:
            return self._codec.unpack(self.raw(ids))
        places = self._places(ids)
        found = places >= 0
        starts, stops = self._row_ends(places[found])
        self._rows.content.prove(starts, stops)
        # What was packed, and a checksum covers, holds nothing that a model cannot take: no need to look again.
        if not self.count:
            return Rows(np.repeat(self._codec.missing, len(ids)), found, (), 0)
        # As plain bytes, which are taken much faster than fields.
        rows = self._rows.content.bytes.view(f"V{self._codec.dtype.itemsize}")
        records = rows.take(places, mode="clip").view(self._codec.dtype)
        if not found.all():
            records[~found] = self._codec.missing
        return Rows(records, found, (), 0)

    def raw(self, ids: Sequence[str]) -> list[bytes | None]:
        """The bytes of the rows of `ids`, in their order, None where the file has none."""
        places = self._places(ids)
        rows = iter(self._cut(places[places >= 0]))
        return [next(rows) if place >= 0 else None for place in places.tolist()]

    def scan(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Ids and raw rows by their place in the file, for copying them elsewhere."""
        places = np.arange(start, max(start, min(stop, self.count)))
        ids = [self._ids.cut(place).decode() for place in places.tolist()]
        return list(zip(ids, self._cut(places), strict=True))

    def _cut(self, places: NDArray[np.int64]) -> list[bytes]:
        starts, stops = self._row_ends(places)
        self._rows.content.prove(starts, stops)
        rows = self._rows.content.bytes
        return [rows[start:stop].tobytes() for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def _row_ends(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size = self._codec.dtype.itemsize
        return (places * size, (places + 1) * size) if self._fixed else self._rows.ends(places)

    def _places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The place of each id in the file [n], −1 where the file has none: by hash, then proved by the id itself."""
        if not len(ids) or not self.count:
            return np.full(len(ids), -1, np.int64)
        encoded = encode_ids(ids)
        places = self._index.first(encoded)
        likely = np.flatnonzero(places >= 0)
        others = likely[~self._are(places[likely], encoded.at(likely))]
        for row in others.tolist():
            own = ids[row].encode()
            places[row] = next(
                (p for p in self._index.all_of(encoded.at(np.array([row]))) if self._ids.cut(p) == own), -1
            )
        return places

    def _are(self, places: NDArray[np.int64], ids: EncodedIds) -> NDArray[np.bool_]:
        """[n] whether the ids at the places are these."""
        starts, stops = self._ids.ends(places)
        # Looked at by the length asked for: of an id that is longer, no more need be read.
        self._ids.content.prove(starts, np.minimum(stops, starts + ids.lengths))
        proved: NDArray[np.bool_] = (stops - starts == ids.lengths) & ids.stand(self._ids.content.bytes, starts)
        return proved


class _Parts:
    """Bytes one after the other, and where each begins [n + 1]."""

    def __init__(self, starts: Section, content: Section, start_type: np.dtype[Any]) -> None:
        self._starts, self.content = starts, content
        self._width, self._at = start_type.itemsize, starts.bytes.view(start_type)

    def ends(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the parts begin and end [n]."""
        self._starts.prove(self._width * places, self._width * (places + 2))
        return self._at[places].astype(np.int64), self._at[places + 1].astype(np.int64)

    def ends_at(self) -> int:
        """Where the last part ends."""
        self._starts.prove(np.array([self._width * (len(self._at) - 1)]), np.array([self._width * len(self._at)]))
        return int(self._at[-1])

    def cut(self, place: int) -> bytes:
        """One part's bytes."""
        starts, stops = self.ends(np.array([place]))
        return self.content.cut(int(starts[0]), int(stops[0]))


def _read_header(path: Path) -> tuple[_Header, int]:
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                raise BundleError(f"{path}: not a rows file; it ends after {len(prefix)} bytes")
            magic, length, checksum = _PREFIX.unpack(prefix)
            if magic != _MAGIC or length > _MAX_HEADER:
                raise BundleError(f"{path}: not a rows file of this format ({_MAGIC.decode()}); export again")
            header = file.read(length)
        if zlib.crc32(header) != checksum:
            raise BundleError(f"{path}: the header is damaged; copy the bundle again")
        return _Header.model_validate(json.loads(header)), _PREFIX.size + length
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the header is damaged") from error
