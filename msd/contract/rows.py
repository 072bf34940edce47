"""The packed record of one user or item, the same bytes in the bundle's file and in Redis; a user's ends with a
history.

One numpy dtype derived from the schema. Does not know where rows are kept (`row_file`, and the service's stores).
"""

import math
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.encode import STANDARD_LIMIT
from msd.contract.errors import BundleError
from msd.contract.schema import MAX_HISTORY, MAX_ID_CHARS, FeatureSchema
from msd.contract.state import Impression

ROW_FORMAT = 3
_HAS_SEMANTIC, _ENCODED, _DESCRIBED = 1, 2, 4
_IMPRESSION = struct.Struct("<IeeH")
_LATEST, _MOST = 2**32 - 1, 60_000.0  # an impression's greatest packed time and numbers
MAX_COUNT = 1e30
"""Of impressions and clicks in rows and live states: single precision ends above it, and real counts far below."""
LATEST_S = 1e11
"""Some thousand years from now: a later time is damage."""
_SUM = struct.Struct("<I")
# CRC-32 of any bytes followed by their own CRC-32.
_RESIDUE = 0x2144DF1C
_MAX_ID_BYTES = 4 * MAX_ID_CHARS
MAX_TAIL_BYTES = MAX_HISTORY * (_IMPRESSION.size + _MAX_ID_BYTES) + _SUM.size
"""Of a history at the end of a user's row."""

RowSide = Literal["user", "item"]
ROW_SIDES: tuple[RowSide, ...] = ("user", "item")
Records = NDArray[np.void]


class RowContents(NamedTuple):
    """Columns of n rows before packing.

    Shapes: categorical [n, C], numeric [n, 2K], semantic [n, D] or None, present [n] whether a row has a vector,
    impressions, clicks and as_of [n] (Unix s). described [n]: which are scored as a request's own description would be,
    and declared like that; None: none.
    """

    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    semantic: NDArray[np.float32] | None
    present: NDArray[np.bool_]
    impressions: NDArray[np.float64]
    clicks: NDArray[np.float64]
    as_of: NDArray[np.float64]
    described: NDArray[np.bool_] | None = None


class Rows(NamedTuple):
    """Records in the requested order; IDs without a usable row have the record of missing values.

    Shapes: records [n], found [n], stale [n]. `histories` holds users' impressions, oldest first; none for items. A
    record with only a text's vector (`RowCodec.encoded`) does not count as found. `stale` is None if the source
    answered; otherwise it marks last known rows, and any other row that was not found may exist.
    """

    records: Records
    found: NDArray[np.bool_]
    histories: tuple[tuple[Impression, ...], ...]
    damaged: int
    stale: NDArray[np.bool_] | None = None


class RowCodec:
    """Packs and unpacks the rows of one side of one bundle."""

    def __init__(self, schema: FeatureSchema, side: RowSide, bundle_id: str) -> None:
        self.side = side
        self.dtype = row_dtype(schema, side)
        self.max_bytes = self.dtype.itemsize + (MAX_TAIL_BYTES if side == "user" else 0)
        """Of a row, with its history."""
        self._tag = int(bundle_id[:16], 16)
        self._sizes = np.repeat(
            [field.size for field in schema.indexed(side)], [field.width for field in schema.indexed(side)]
        ).astype(np.int64)

    @cached_property
    def missing(self) -> Records:
        """The record [1] of an unknown ID."""
        record = np.zeros(1, self.dtype)
        record["format"] = ROW_FORMAT
        record["bundle"] = self._tag
        record["numeric"][:, 1::2] = 1.0  # every second column is the missing flag of the number before it
        _seal(record)
        return record

    def pack(self, contents: RowContents, written_at: float | NDArray[np.float64]) -> Records:
        """Return records [n] of this bundle, `written_at`, of all or [n], in Unix s. A vector is rounded to fp16,
        an absent one is zero."""
        records = np.zeros(len(contents.categorical), self.dtype)
        records["format"] = ROW_FORMAT
        records["bundle"] = self._tag
        records["flags"] = _HAS_SEMANTIC * contents.present
        if contents.described is not None:
            records["flags"] |= _DESCRIBED * contents.described.astype(np.uint8)
        records["written_at"] = written_at
        with np.errstate(over="ignore"):  # overflow becomes infinite, and is refused below
            for name in ("categorical", "numeric", "impressions", "clicks", "as_of"):
                records[name] = getattr(contents, name)
            if contents.semantic is not None:
                records["semantic"] = np.where(contents.present[:, None], contents.semantic, 0.0)
        if not self.is_usable(records).all():
            raise BundleError(
                f"a row of the {self.side} side holds a value that is not finite or out of range (fp16 ends at 65,504, "
                f"numbers at ±{STANDARD_LIMIT:g}, counts begin at 0), or an index outside its table"
            )
        _seal(records)
        return records

    def encoded(self, vectors: NDArray[np.float16], known: Records | None = None) -> Records:
        """Return records [n] of IDs without a row, with the vectors [n, D] of their texts. Other `known` values [n],
        such as live counts, stay.

        They pack as rows do, for the request log.
        """
        records = np.repeat(self.missing, len(vectors)) if known is None else known.copy()
        records["flags"] = _HAS_SEMANTIC | _ENCODED
        records["semantic"] = vectors
        _seal(records)
        return records

    def unpack(self, buffers: Sequence[bytes | None]) -> Rows:
        """Unpack raw rows, None if the store has none. Truncated, foreign, unreadable or too long rows count as
        damaged."""
        size = self.dtype.itemsize
        records, usable = self._unpack_heads(buffers)
        histories: list[tuple[Impression, ...]] = []
        if self.side == "user":
            for position, buffer in enumerate(buffers):
                history = unpack_history(buffer[size:]) if buffer is not None and usable[position] else ()
                usable[position] &= history is not None
                histories.append(history or ())
        records[~usable] = self.missing
        absent = sum(buffer is None for buffer in buffers)
        found = usable & ((records["flags"] & _ENCODED) == 0)
        return Rows(records, found, tuple(histories), len(buffers) - absent - int(usable.sum()))

    def check(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Raise BundleError, with the ID, for a row that is damaged apart from its history, or too long."""
        _, usable = self._unpack_heads([row for _, row in rows])
        if not usable.all():
            row_id, row = rows[int(np.argmin(usable))]
            what = (
                f"has {len(row):,} bytes; {self.max_bytes:,} are allowed" if len(row) > self.max_bytes else "is damaged"
            )
            raise BundleError(f"the row of {self.side} {row_id!r} {what}; export the bundle again")

    def _unpack_heads(self, buffers: Sequence[bytes | None]) -> tuple[Records, NDArray[np.bool_]]:
        """Return the records [n] of raw rows, and which of them are usable, whatever history follows."""
        size, most = self.dtype.itemsize, self.max_bytes
        heads = [buffer[:size] if buffer and len(buffer) <= most else None for buffer in buffers]
        filler = self.missing.tobytes()
        present = [head is not None and len(head) == size and zlib.crc32(head) == _RESIDUE for head in heads]
        joined = b"".join(head if ok and head else filler for head, ok in zip(heads, present, strict=True))
        records = np.frombuffer(bytearray(joined), self.dtype)
        return records, np.array(present, bool) & self.is_usable(records)

    def is_usable(self, records: Records) -> NDArray[np.bool_]:
        """Return whether each record [n] has this format and bundle, and only values that can have been packed."""
        usable: NDArray[np.bool_] = (records["format"] == ROW_FORMAT) & (records["bundle"] == self._tag)
        for name in ("impressions", "clicks"):
            usable &= (records[name] >= 0) & (records[name] <= MAX_COUNT)
        for name in ("as_of", "written_at"):
            usable &= np.abs(records[name]) <= LATEST_S
        usable &= (np.abs(records["numeric"]) <= STANDARD_LIMIT).all(axis=1)
        usable &= np.isfinite(records["semantic"]).all(axis=1)
        indices = records["categorical"]
        return usable & ((indices >= 0) & (indices < self._sizes)).all(axis=1)


def row_dtype(schema: FeatureSchema, side: RowSide) -> np.dtype[Any]:
    """Return the packed little-endian layout of one side's records."""
    return np.dtype(
        [
            ("format", "u1"),
            ("flags", "u1"),
            ("bundle", "<u8"),
            ("written_at", "<f8"),
            ("impressions", "<f4"),
            ("clicks", "<f4"),
            ("as_of", "<f8"),
            ("categorical", "<i4", (schema.categorical_width(side),)),
            ("numeric", "<f4", (schema.numeric_width(side),)),
            ("semantic", "<f2", (schema.semantic_width(side),)),
            ("checksum", "<u4"),  # CRC-32 of everything before it
        ]
    )


def has_semantic(records: Records) -> NDArray[np.bool_]:
    """Return whether each record [n] has a vector."""
    result: NDArray[np.bool_] = (records["flags"] & _HAS_SEMANTIC) != 0
    return result


def is_described(records: Records) -> NDArray[np.bool_]:
    """Return whether each record [n] is declared as a request's own description would be."""
    result: NDArray[np.bool_] = (records["flags"] & _DESCRIBED) != 0
    return result


def _seal(records: Records) -> None:
    """Write the checksum of each of n contiguous records into it."""
    size = records.dtype.itemsize
    content = records.view(np.uint8).reshape(-1).data
    starts = range(0, len(content), size)
    records["checksum"] = [zlib.crc32(content[start : start + size - _SUM.size]) for start in starts]


def pack_history(history: Sequence[Impression]) -> bytes:
    """Return the tail of a user's row: of each impression its time in whole seconds, the numbers of impressions and
    clicks in fp16, the length of the item's ID, and the ID in UTF-8; then their CRC-32.

    Raises BundleError if it has more than `MAX_HISTORY` impressions, or one that is invalid.
    """
    if len(history) > MAX_HISTORY:
        raise BundleError(f"a history has {len(history):,} impressions; {MAX_HISTORY:,} are allowed")
    parts = []
    for impression in history:
        encoded = impression.item_id.encode()
        if b"\0" in encoded:
            raise BundleError("an id in a history holds a NUL character")
        if len(encoded) > _MAX_ID_BYTES:
            raise BundleError(f"an id in a history has {len(encoded)} bytes; {_MAX_ID_BYTES} are allowed")
        numbers = impression.shown, impression.clicked
        if math.isnan(impression.at) or not all(number >= 0 for number in numbers):
            raise BundleError(f"a history holds invalid numbers: {impression}")
        at = int(min(max(impression.at, 0.0), _LATEST))
        shown, clicked = (min(number, _MOST) for number in numbers)
        parts.append(_IMPRESSION.pack(at, shown, clicked, len(encoded)) + encoded)
    tail = b"".join(parts)
    return tail + _SUM.pack(zlib.crc32(tail))


def unpack_history(tail: bytes) -> tuple[Impression, ...] | None:
    """Return the impressions that `pack_history` packed, or None for invalid bytes and for more than it packs."""
    if not _SUM.size <= len(tail) <= MAX_TAIL_BYTES or zlib.crc32(tail) != _RESIDUE:
        return None
    history: list[Impression] = []
    place, end = 0, len(tail) - _SUM.size
    while place < end:
        if place + _IMPRESSION.size > end or len(history) == MAX_HISTORY:
            return None
        at, shown, clicked, length = _IMPRESSION.unpack_from(tail, place)
        place += _IMPRESSION.size
        if place + length > end or not (0 <= shown <= _MOST and 0 <= clicked <= _MOST):
            return None
        try:
            history.append(Impression(float(at), tail[place : place + length].decode(), shown, clicked))
        except UnicodeDecodeError:
            return None
        place += length
    return tuple(history)
