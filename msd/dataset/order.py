"""Order of events, also of more than memory holds: by time, user, item and label, whatever the order of the file."""

import tempfile
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

BLOCK = 2**18
"""Events that are read or sorted at once."""
_SAMPLE = 2**10


def id_order(column: str) -> tuple[pl.Expr, ...]:
    """Return sort keys of IDs: digits-only ones come first, by number however long, then the others as text."""
    text = pl.col(column)
    digits = pl.when(text.str.contains("^[0-9]+$")).then(text.str.strip_chars_start("0"))
    return digits.is_null(), digits.str.len_chars(), digits, text


def sort_events(events: pl.DataFrame) -> pl.DataFrame:
    """Sort by time, then user, then item, then label, so that the order of the file's rows never matters."""
    return events.sort("at", *id_order("user_id"), *id_order("item_id"), "label", maintain_order=True)


def sort_blocks(blocks: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Sort the events of all blocks as `sort_events` does, into mapped files.

    Each block is sorted by time, then all are merged by ranges of time of about BLOCK events: events of one moment are
    in memory together.
    """
    runs = [_mapped(block.sort("at", maintain_order=True)) for block in blocks]
    every = max(1, BLOCK // _SAMPLE)
    sample = np.sort(np.concatenate([run["at"].gather_every(every).to_numpy() for run in runs]))
    ranges = -(-sum(run.height for run in runs) // BLOCK)
    cuts = np.unique(sample[np.arange(1, ranges) * len(sample) // max(ranges, 1)])
    places = [[0, *np.searchsorted(run["at"].to_numpy(), cuts).tolist(), run.height] for run in runs]
    merged = [
        _mapped(sort_events(pl.concat([run[start:end] for run, (start, end) in zip(runs, slices, strict=True)])))
        for slices in zip(*map(pairwise, places), strict=True)
    ]
    return pl.concat(merged, rechunk=False)


def _mapped(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the same table in a temporary file, whose pages take memory only while in use. Raises OSError."""
    with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
        try:
            frame.write_ipc(file.name, compat_level=pl.CompatLevel.newest())
        except OSError as error:  # of Polars, which names no file
            raise OSError(error.errno, str(error), file.name) from None
        with pa.memory_map(file.name) as mapped:
            held = pl.from_arrow(pa.ipc.open_file(mapped).read_all(), rechunk=False)
    assert isinstance(held, pl.DataFrame), "a file of Arrow is a table"
    return held
