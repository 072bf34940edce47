"""Tables of more rows than memory holds, in mapped temporary files."""

import tempfile
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

BLOCK = 2**18
"""Rows that are read or sorted at once."""
_PARTITIONS, _TOGETHER = 2**8, 2**16


def mapped(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the same table in a temporary file, whose pages take memory only while in use. Raises OSError."""
    with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
        try:
            frame.write_ipc(file.name, compat_level=pl.CompatLevel.newest())
        except OSError as error:  # of Polars, which names no file
            raise OSError(error.errno, str(error), file.name) from None
        with pa.memory_map(file.name) as opened:
            held = pl.from_arrow(pa.ipc.open_file(opened).read_all(), rechunk=False)
    assert isinstance(held, pl.DataFrame), "a file of Arrow is a table"
    return held


class Partitions:
    """Rows by the hash of a key: those of one key are in one partition, in their order."""

    def __init__(self, *key: str) -> None:
        self.heights = np.zeros(_PARTITIONS, np.int64)
        self._key, self._waiting = key, list[pl.DataFrame]()
        self._runs = list[tuple[pl.DataFrame, NDArray[np.int64]]]()

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows, of the same columns always."""
        self._waiting.append(rows)
        if sum(one.height for one in self._waiting) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if not self._waiting:
            return
        rows = pl.concat(self._waiting)
        numbers = (rows.select(self._key).hash_rows() % _PARTITIONS).to_numpy()
        order = np.argsort(numbers, kind="stable")
        places = np.searchsorted(numbers[order], np.arange(_PARTITIONS + 1))
        self._runs.append((mapped(rows[order]), places))
        self.heights += np.diff(places)
        self._waiting.clear()

    def rows(self, start: int, end: int) -> pl.DataFrame:
        """Return the rows of some partitions."""
        return pl.concat([run[int(places[start]) : int(places[end])] for run, places in self._runs])


def together(*tables: Partitions) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Yield the same partitions of all tables, as many at once as memory may hold. Each table needs one `add`."""
    for table in tables:
        table.flush()
    groups = np.cumsum(sum(table.heights for table in tables)) // _TOGETHER
    ends = np.flatnonzero(np.diff(groups, append=-1)) + 1
    for start, end in pairwise([0, *ends.tolist()]):
        yield tuple(table.rows(start, end) for table in tables)
