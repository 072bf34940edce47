"""The rows of one side: an index of ids, the ids to prove what it says, and the rows, each read when first touched.

Knows where a row is, not what it says. How the file is laid out is in `row_header`, how it is made in `row_writer`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.block_memory import new_memory
from msd.contract.checked_file import CheckedFile, OpenFile, Section
from msd.contract.errors import BundleError
from msd.contract.id_index import WORD, EncodedIds, IdIndex, encode_ids
from msd.contract.row_header import RowHeader, read_header, start_type
from msd.contract.rows import RowCodec, Rows, unpack_history


def rows_memory(path: Path) -> int:
    """A descriptor of memory for this file's rows, for processes that inherit it to share; Linux only."""
    header, _, tag = _identify(OpenFile(path))
    return new_memory(header.checksums.start, tag)


def _identify(file: OpenFile) -> tuple[RowHeader, int, bytes]:
    """The header, where the sections begin, and a tag that only files of the same bytes have in common."""
    header, raw = read_header(file)
    base, checksums = len(raw), header.checksums
    if file.size != base + checksums.start + checksums.size:
        raise BundleError(f"{file.path}: the file is truncated or longer than its header says; copy the bundle again")
    return header, base, hashlib.sha256(raw + file.read(base + checksums.start, checksums.size)).digest()


class RowFile:
    """Reads the rows of one side. Opening reads the header and the checksums; all else when it is first touched.

    `memory` is what `rows_memory` gave for the same file; without, the rows are kept by this process alone.
    """

    def __init__(self, path: Path, codec: RowCodec, bundle_id: str, memory: int | None = None) -> None:
        self._codec = codec
        opened = OpenFile(path)
        header, base, tag = _identify(opened)
        expected = {"bundle_id": bundle_id, "side": codec.side, "record_dtype": str(codec.dtype.descr)}
        for name, value in expected.items():
            if getattr(header, name) != value:
                raise BundleError(f"{path}: {name} is {getattr(header, name)!r}, this bundle needs {value!r}")
        file = CheckedFile(opened, base, header.checksums.start, tag, memory)
        self.is_shared = file.is_shared
        self.count = header.count
        self._index = IdIndex(file.section(header.slots), header.homes, header.seed)
        self._ids = _Parts(file.section(header.id_starts), file.section(header.ids), start_type(header.ids.size - WORD))
        self._rows = _Parts(file.section(header.row_starts), file.section(header.rows), start_type(header.rows.size))
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
        if len(ids) == 1 and self.count:
            return self._lone(ids[0].encode())
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
        ids = self._ids.cut(places)
        return [(one.decode(), row) for one, row in zip(ids, self._cut(places), strict=True)]

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
            places[row] = self._place(own)
        return places

    def _place(self, own: bytes) -> int:
        """The place of one id, −1 where the file does not have it."""
        return next((place for place in self._index.all_of(own) if self._ids.cut_one(place) == own), -1)

    def _lone(self, own: bytes) -> Rows:
        """The row of one id, all but always the request's user: arrays would cost ten times as much."""
        place = self._place(own)
        if place < 0:
            return self._codec.unpack([None])
        size = self._codec.dtype.itemsize
        row = self._rows.content.cut(place * size, (place + 1) * size) if self._fixed else self._rows.cut_one(place)
        history = unpack_history(row[size:]) if self._codec.side == "user" else None
        histories = () if history is None else (history,)
        # As above: what a checksum covers need not be looked at again.
        return Rows(np.frombuffer(bytearray(row[:size]), self._codec.dtype), np.ones(1, bool), histories, 0)

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

    def cut_one(self, place: int) -> bytes:
        """One part's bytes."""
        ends = self._starts.cut(self._width * place, self._width * (place + 2))
        start, stop = (int.from_bytes(end, "little") for end in (ends[: self._width], ends[self._width :]))
        return self.content.cut(start, stop)

    def cut(self, places: NDArray[np.int64]) -> list[bytes]:
        """The parts' bytes."""
        starts, stops = self.ends(places)
        self.content.prove(starts, stops)
        content = self.content.bytes
        return [content[start:stop].tobytes() for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
