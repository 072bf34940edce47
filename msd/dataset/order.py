"""Sorts events by time, user, item and label, also more than fit into memory. Does not know where they are from."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from msd.dataset.mapped import BLOCK, mapped

_SAMPLE = 2**10


def id_order(column: str) -> tuple[pl.Expr, ...]:
    """Return sort keys of IDs: digits-only ones come first, by number however long, then the others as text."""
    text = pl.col(column)
    digits = pl.when(text.str.contains("^[0-9]+$")).then(text.str.strip_chars_start("0"))
    return digits.is_null(), digits.str.len_chars(), digits, text


_OF_EVENTS: tuple[str | pl.Expr, ...] = ("at", *id_order("user_id"), *id_order("item_id"), "label")


def sort_events(events: pl.DataFrame) -> pl.DataFrame:
    """Sort by time, then user, then item, then label, so that the order of the file's rows never matters."""
    return events.sort(_OF_EVENTS, maintain_order=True)


def sort_blocks(blocks: Iterable[pl.DataFrame], keys: Sequence[str | pl.Expr] = _OF_EVENTS) -> pl.DataFrame:
    """Sort the rows of all blocks by columns, by default as `sort_events` does, into mapped files.

    Each block is sorted by the first, a number, then all are merged by ranges of it: rows of one number are in memory
    together.
    """
    first = str(keys[0])
    runs = [mapped(block.sort(first, maintain_order=True)) for block in blocks]
    merged = [mapped(pl.concat(slices).sort(keys, maintain_order=True)) for slices in ranges(runs, first)]
    return pl.concat(merged, rechunk=False)


def ranges(runs: Sequence[pl.DataFrame], by: str = "at") -> Iterator[list[pl.DataFrame]]:
    """Yield the slices of sorted runs between the same whole numbers, about BLOCK rows at once."""
    every = max(1, BLOCK // _SAMPLE)
    sample = np.sort(np.concatenate([run[by].gather_every(every).to_numpy() for run in runs]))
    count = -(-sum(run.height for run in runs) // BLOCK)
    cuts = pl.Series(np.unique(np.floor(sample[np.arange(1, count) * len(sample) // max(count, 1)])))
    places = [[0, *run[by].search_sorted(cuts.cast(run[by].dtype), "left"), run.height] for run in runs]
    for slices in zip(*map(pairwise, places), strict=True):
        yield [run[start:end] for run, (start, end) in zip(runs, slices, strict=True)]
