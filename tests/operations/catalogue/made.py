"""Small catalogues for tests: shards of items, and their rows read back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msd.contract.bundle import Bundle
from msd.contract.rows import Records, RowCodec
from operations.catalogue.catalogue import Finished, make_catalogue, make_here
from operations.catalogue.parquet import read_part

COLUMNS: Mapping[str, Sequence[Any]] = {
    "id": ["n0", "n1", "n2", "n3"],
    "text": ["a tent for two", None, "  ", "a tent for two"],
    "category": ["games", "never seen", None, "books"],
    "genres": [["g1", "g2", "g3"], [], None, ["g4"]],
    "price": [9.5, None, 0.0, 12],
}


def write_shard(path: Path, columns: Mapping[str, Any] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)
    return path


def write_items(folder: Path, shards: int = 3, rows: int = 4) -> Path:
    """A folder of shards whose ids all differ."""
    for shard in range(shards):
        ids = [f"s{shard}-{row}" for row in range(rows)]
        texts = [f"an ad, number {row} of {shard}" if row % 4 else None for row in range(rows)]
        write_shard(folder / f"{shard:03}.parquet", {"id": ids, "text": texts, "price": list(range(rows))})
    return folder


def cut(path: Path) -> None:
    """Keep half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one bit, in Parquet among the values."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def quiet(there: int, total: int) -> None:
    """No progress bar."""


def make(items: Path, bundle: Bundle, out: Path, processes: int = 1) -> Finished:
    return make_catalogue(items, bundle, out, lambda jobs: make_here(jobs, processes), quiet)


def records_of(bundle: Bundle, part: Path) -> dict[str, Records]:
    """The rows of a part, by id, each as [1] record."""
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    found = {}
    for rows in read_part(part):
        for one, row in rows:
            assert codec.unpack([row]).found[0]
            found[one] = np.frombuffer(row, codec.dtype)
    return found
