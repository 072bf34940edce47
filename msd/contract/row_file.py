"""The rows file of one side: an index of IDs, and the rows, each behind its ID and read on first use.

Knows where a row is, not its content. `row_header` defines the layout, `row_writer` writes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import ROWS, Bundle
from msd.contract.checked_file import CheckedFile, OpenFile, Section, lazy_memory
from msd.contract.errors import BundleError
from msd.contract.id_index import IdIndex, encode_ids
from msd.contract.row_header import RowHeader, read_header, start_type
from msd.contract.rows import RowCodec, Rows, RowSide


class RowMemory(NamedTuple):
    """What a non-Python reader needs to find and verify rows: memory of its own for all sections, a flag per verified
    block, the blocks' checksums; and the offset of the sections in the open file `descriptor`."""

    header: RowHeader
    body: NDArray[np.uint8]
    proved: NDArray[np.bool_]
    checksums: NDArray[np.uint32]
    descriptor: int
    base: int
    start_bytes: int
    record_bytes: int


class RowFile:
    """Reads the rows of one side. Opening reads header and checksums; everything else is read on first use."""

    @classmethod
    def of(cls, bundle: Bundle, side: RowSide) -> Self:
        """Open a bundle's rows."""
        return cls(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)

    def __init__(self, path: Path, codec: RowCodec, bundle_id: str) -> None:
        self.codec = codec
        opened = OpenFile(path)
        header, raw = read_header(opened)
        base, checksums = len(raw), header.checksums
        if opened.size != base + checksums.start + checksums.size:
            raise BundleError(f"{path}: the file is truncated or longer than its header says; copy the bundle again")
        expected = {"bundle_id": bundle_id, "side": codec.side, "record_dtype": str(codec.dtype.descr)}
        for name, value in expected.items():
            if getattr(header, name) != value:
                raise BundleError(f"{path}: {name} is {getattr(header, name)!r}, but this bundle needs {value!r}")
        file = self._file = CheckedFile(opened, base, checksums.start)
        self._header = header
        self.count = header.count
        self._width = header.width
        self._index, self._rows = IdIndex(file.section(header.starts), header.seed), file.section(header.rows)
        self._size = header.width + codec.dtype.itemsize
        self._starts = _Starts(file.section(header.row_starts), header.rows.size) if header.row_starts.size else None
        if self._starts is None:
            whole = header.rows.size == self.count * self._size
        else:
            whole = self._starts.end() == header.rows.size
        if not whole:
            raise BundleError(f"{path}: the header is damaged; copy the bundle again")

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of `ids`, in order. Raises BundleError if a block that they touch is damaged."""
        if self._starts is not None or not self.count:
            return self.codec.unpack(self.raw(ids))
        places = self._places(ids)
        # As plain bytes, which are taken much faster than fields.
        rows = self._rows.bytes.view(f"V{self._size}").take(places, mode="clip").view(np.uint8).reshape(len(ids), -1)
        # Packed rows with a valid checksum need no further validation.
        records = np.ascontiguousarray(rows[:, self._width :]).view(self.codec.dtype)[:, 0]
        found = places >= 0
        records[~found] = self.codec.missing
        return Rows(records, found, (), 0)

    def raw(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of the rows of `ids`, in order, None for missing ones. Raises as `get` does."""
        places = self._places(ids)
        rows = iter(self._cut(places[places >= 0], self._width))
        return [next(rows) if place >= 0 else None for place in places.tolist()]

    def memory(self) -> RowMemory:
        """Memory for another reader, while this object lives. Python's is not shared: nothing orders its writes for the
        reader's threads."""
        file, starts = self._file, start_type(self._header.rows.size).itemsize
        return RowMemory(
            self._header,
            lazy_memory(len(file.body)),
            np.zeros_like(file.proved),
            file.checksums,
            file.descriptor,
            file.base,
            starts,
            self.codec.dtype.itemsize,
        )

    def scan(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Yield IDs and raw rows in file order, for copying."""
        places = np.arange(start, max(start, min(stop, self.count)))
        if not len(places):
            return []
        rows = self._cut(places, 0)
        return [(row[: self._width].rstrip(b"\0").decode(), row[self._width :]) for row in rows]

    def _cut(self, places: NDArray[np.int64], skipped: int) -> list[bytes]:
        """Return rows without their first bytes."""
        starts, stops = self._row_ends(places)
        self._rows.prove(starts, stops)
        rows = self._rows.bytes
        ends = zip((starts + skipped).tolist(), stops.tolist(), strict=True)
        return [rows[start:stop].tobytes() for start, stop in ends]

    def _row_ends(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size = self._size
        return (places * size, (places + 1) * size) if self._starts is None else self._starts.of(places)

    def _places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the place of each ID [n], −1 if absent; if rows have one length, they are verified too."""
        if not len(ids) or not self.count:
            return np.full(len(ids), -1, np.int64)
        words = encode_ids(ids, self._width)

        def are_at(rows: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.bool_]:
            starts, _ = self._row_ends(at)
            self._rows.prove(starts, starts + self._width)
            own = self._rows.bytes[starts[:, None] + np.arange(self._width)].view("<u8")
            alike: NDArray[np.bool_] = (own == words[rows]).all(1)
            return alike

        places = self._index.find(words, are_at)
        if self._starts is None:
            self._rows.prove(*self._row_ends(places[places >= 0]))
        return places


class _Starts:
    """Offsets of rows of different lengths, and the end of the last one [n + 1]."""

    def __init__(self, section: Section, size: int) -> None:
        self._section = section
        self._at = section.bytes.view(start_type(size))
        self._width = self._at.itemsize

    def of(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._section.prove(self._width * places, self._width * (places + 2))
        return self._at[places].astype(np.int64), self._at[places + 1].astype(np.int64)

    def end(self) -> int:
        size = np.array([self._at.nbytes])
        self._section.prove(size - self._width, size)
        return int(self._at[-1])
