"""Writes the rows file of one side with its index, in parts: ten million rows need not be in memory at once."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from msd.contract.checked_file import BLOCK, SectionPlace
from msd.contract.errors import BundleError
from msd.contract.files import atomic_file
from msd.contract.id_index import Words, build_index, encode_ids, hash_all, id_width
from msd.contract.row_file import RowMemory
from msd.contract.row_header import RowHeader, start_type
from msd.contract.rows import Records, RowCodec, pack_history
from msd.contract.state import Impression

_CHUNK = 16_384

RecordsOf = Callable[[NDArray[np.int64]], Records]
"""Returns the records of some rows."""


def write_row_file(
    path: Path,
    codec: RowCodec,
    bundle_id: str,
    ids: Sequence[str],
    records: Records | RecordsOf,
    histories: Sequence[Sequence[Impression]],
) -> None:
    """Write rows and their index. `ids` are unique, `records` [n] packed by `codec`, `histories` empty for items."""
    header, parts = _packed(path.name, codec, bundle_id, ids, records, histories)
    with atomic_file(path) as file:
        file.write(header.pack())
        _write_blocks(file, parts)


def rows_in_memory(
    codec: RowCodec, bundle_id: str, ids: Sequence[str], records: Records, histories: Sequence[Sequence[Impression]]
) -> RowMemory:
    """Return rows as `write_row_file` writes them, in memory that is verified already, for a reader other than
    Python."""
    header, parts = _packed("rows", codec, bundle_id, ids, records, histories)
    body = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
    blocks = -(-len(body) // BLOCK)
    starts, size = start_type(header.rows.size).itemsize, codec.dtype.itemsize
    return RowMemory(header, body, np.ones(blocks, bool), np.zeros(blocks, np.uint32), -1, 0, starts, size)


def _packed(
    name: str,
    codec: RowCodec,
    bundle_id: str,
    ids: Sequence[str],
    records: Records | RecordsOf,
    histories: Sequence[Sequence[Impression]],
) -> tuple[RowHeader, Iterator[bytes | memoryview]]:
    """Return the header, and all sections but the checksums, in parts. `name`: of the file."""
    seed = int(bundle_id[-16:], 16)
    width = id_width(ids)
    hashes = hash_all(ids, width, seed)
    index = build_index(hashes, seed)
    _refuse_twins(name, ids, hashes[index.order], index.order)
    tails = [pack_history(history) for history in histories] if codec.side == "user" else []
    sizes = width + codec.dtype.itemsize + np.fromiter(map(len, tails), np.int64, len(tails))
    row_starts: NDArray[np.unsignedinteger] = np.zeros(0, np.uint8)
    if codec.side == "user":
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[index.order], dtype=np.int64)])
        row_starts = starts.astype(start_type(int(starts[-1])))
    sections: dict[str, tuple[int, Iterator[bytes | memoryview]]] = {
        "starts": _array(index.starts),
        "row_starts": _array(row_starts),
        "rows": (
            int(row_starts[-1]) if len(row_starts) else len(ids) * (width + codec.dtype.itemsize),
            _rows(ids, width, records, tails, index.order),
        ),
    }
    places, start = {}, 0
    for name, (size, _) in sections.items():
        places[name] = SectionPlace(start, size)
        start += size
    places["checksums"] = SectionPlace(start, 4 * -(-start // BLOCK))
    about = {"bundle_id": bundle_id, "side": codec.side, "count": len(ids), "record_dtype": str(codec.dtype.descr)}
    header = RowHeader.model_validate({**about, "seed": seed, "width": width, **places})
    return header, chain.from_iterable(parts for _, parts in sections.values())


def _refuse_twins(name: str, ids: Sequence[str], hashes: Words, order: NDArray[np.int64]) -> None:
    """Raise BundleError if an ID occurs twice, which shows as a repeated hash. `hashes` [n] are in the order of
    places."""
    if len(order) < 2:
        return
    same = hashes[1:] == hashes[:-1]
    seen: set[str] = set()
    for row in order[np.append(same, False) | np.insert(same, 0, False)].tolist():
        if ids[row] in seen:
            raise BundleError(f"{name}: an id occurs twice: {ids[row]!r}")
        seen.add(ids[row])


def _array(values: NDArray[np.unsignedinteger]) -> tuple[int, Iterator[bytes | memoryview]]:
    return values.nbytes, iter((values.view(np.uint8).data,))


def _rows(
    ids: Sequence[str], width: int, records: Records | RecordsOf, tails: list[bytes], order: NDArray[np.int64]
) -> Iterator[bytes]:
    """Yield rows, each behind its ID."""
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        some = records(rows) if callable(records) else records[rows]
        own = encode_ids([ids[row] for row in rows.tolist()], width).view(np.uint8)
        whole = np.hstack([own, some.view(np.uint8).reshape(len(rows), -1)])
        if tails:
            yield b"".join(part.tobytes() + tails[row] for part, row in zip(whole, rows.tolist(), strict=True))
        else:
            yield whole.tobytes()


def _write_blocks(file: BinaryIO, parts: Iterator[bytes | memoryview]) -> None:
    """Write the parts in sequence, then a CRC-32 for every block of them, in little endian."""
    sums, current, filled = [], 0, 0
    for part in parts:
        file.write(part)
        rest = memoryview(part)
        while len(rest):
            piece = rest[: BLOCK - filled]
            current, filled, rest = zlib.crc32(piece, current), filled + len(piece), rest[len(piece) :]
            if filled == BLOCK:
                sums.append(current)
                current = filled = 0
    file.write(np.array([*sums, current] if filled else sums, "<u4").tobytes())
