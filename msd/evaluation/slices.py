"""Slices of test rows: warm and cold users and items, item frequency, and every feature."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.config import FeatureConfig
from msd.dataset.load import Dataset
from msd.dataset.split import Part

FEWEST_ROWS = 50
MOST_VALUES = 25
MISSING = "(missing)"
_FREQUENCIES = {0: "0 training rows", 1: "1–9", 10: "10–99", 100: "100–999", 1_000: "1,000 or more"}
Rows = NDArray[np.int64]


class Slice(NamedTuple):
    """Positions, among the test rows, of the rows with the same `value` of the slicing variable `by`."""

    by: str
    value: str
    rows: Rows


def slice_rows(dataset: Dataset, parts: NDArray[np.int8], events: Rows) -> list[Slice]:
    """Return all slices of some events, as positions in `events`. The slices of one `by` cover every event, once; with
    bags possibly more than once.

    Cold users and items have no window or train row. A feature's slices are its 25 most frequent values, the rarer ones
    together, and missing; those of a numeric feature are its quarters, and missing.
    """
    found: list[Slice] = []
    training = parts <= Part.TRAIN
    for side in ("user", "item"):
        ids = dataset.events[f"{side}_id"]
        seen = Counter(ids.filter(pl.Series(training)))
        counts = np.array([seen[one] for one in ids.gather(events)])
        warmth = np.where(counts > 0, "warm", "cold")
        found += [Slice(side, value, np.flatnonzero(warmth == value)) for value in ("warm", "cold")]
    lowest = np.array(list(_FREQUENCIES))
    bucket = np.searchsorted(lowest, counts, side="right") - 1
    names = _FREQUENCIES.values()
    found += [Slice("item frequency", name, np.flatnonzero(bucket == place)) for place, name in enumerate(names)]
    for feature in dataset.config.features:
        values = _values(dataset, feature, events)
        found += _quarters(feature.name, values) if feature.kind == "numeric" else _categories(feature.name, values)
    return [one for one in found if len(one.rows)]


def unmeasurable(labels: NDArray[np.float64]) -> str | None:
    """Return why rows with these labels have no metrics, or None if they can be measured."""
    if len(labels) < FEWEST_ROWS:
        return f"fewer than {FEWEST_ROWS} rows"
    return "one label only" if labels.min() == labels.max() else None


def _values(dataset: Dataset, feature: FeatureConfig, events: Rows) -> list[Any]:
    """Return the feature's value of each event, as stored in its table."""
    if feature.side == "context":
        return dataset.events[feature.name].gather(events).to_list()
    table, key = (dataset.users, "user_id") if feature.side == "user" else (dataset.items, "item_id")
    of = dict(zip(table[key], table[feature.name].to_list(), strict=True))
    return [of.get(one) for one in dataset.events[key].gather(events)]


def _categories(name: str, values: Sequence[Any]) -> Iterator[Slice]:
    held = [{value} if isinstance(value, str) else set(value or ()) for value in values]
    ranked = sorted(Counter(one for row in held for one in row).items(), key=lambda item: (-item[1], item[0]))
    kept = {value for value, _ in ranked[:MOST_VALUES]}
    for value, _ in ranked[:MOST_VALUES]:
        yield Slice(name, value, np.flatnonzero([value in row for row in held]))
    if rest := len(ranked) - len(kept):
        yield Slice(name, f"({rest} rarer values)", np.flatnonzero([bool(row - kept) for row in held]))
    yield Slice(name, MISSING, np.flatnonzero([not row for row in held]))


def _quarters(name: str, values: Sequence[float | None]) -> Iterator[Slice]:
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    missing = np.isnan(numbers)
    if not missing.all():
        # If many values are equal, edges coincide and there are fewer than four slices.
        edges = np.unique(np.quantile(numbers[~missing], [0.25, 0.5, 0.75]))
        quarter = np.searchsorted(edges, numbers, side="left")
        for place in np.unique(quarter[~missing]):
            rows = np.flatnonzero((quarter == place) & ~missing)
            yield Slice(name, f"{numbers[rows].min():g} to {numbers[rows].max():g}", rows)
    yield Slice(name, MISSING, np.flatnonzero(missing))
