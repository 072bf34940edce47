"""Shifts of a correction by segments, fitted by empirical Bayes: a segment without evidence gets none.

The segments of a field, such as those of the devices, have a normal prior around 0 whose variance is learned (MacKay,
Neural Computation 1992), field by field given the others (backfitting).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.correction import MAX_SEGMENTS, MAX_SHIFT
from msd.contract.segments import field_of, slot_name
from msd.metrics import sigmoid

Floats = NDArray[np.float64]
_SWEEPS, _SETTLED = 50, 1e-4
_BETWEEN = "\x1f"  # names, which have it nowhere
_SURELY = 2.0
_START, _LEAST = 0.05, 1e-6  # variances of a shift


@dataclass(frozen=True)
class Divisions:
    """Combinations of segments, and the one of each impression [n]."""

    names: Sequence[Sequence[str]]
    of: NDArray[np.int64]

    @classmethod
    def none(cls, count: int) -> "Divisions":
        """Return those of impressions without segments."""
        return cls([()], np.zeros(count, np.int64))

    @property
    def segments(self) -> set[str]:
        """Return the segments that have impressions."""
        return {name for place in np.unique(self.of).tolist() for name in self.names[place]}

    def moved(self, shifts: Mapping[str, float]) -> Floats:
        """Return the sum [n] of each impression's shifts."""
        totals = np.array([sum(shifts.get(name, 0.0) for name in names) for names in self.names])
        return np.asarray(totals[self.of], np.float64)

    def fields(self) -> list[tuple[list[str], NDArray[np.int64]]]:
        """Return the segments of each field that has several, and by impression [n] which one it is of; −1: none."""
        found: dict[str, dict[str, int]] = {}
        for name in sorted(self.segments):
            if field := field_of(name):
                found.setdefault(field, {})[name] = len(found.get(field, ()))
        fields = []
        for places in (places for places in found.values() if len(places) > 1):
            codes = np.array([next((places[name] for name in names if name in places), -1) for names in self.names])
            fields.append((list(places), codes[self.of]))
        return fields


class _Field:
    """One field's shifts, and the variance of their prior."""

    def __init__(self, names: list[str], codes: NDArray[np.int64]) -> None:
        self.names, self._codes = names, codes + 1  # 0: none
        self.shifts, self.variance, self.effective = np.zeros(len(names)), _START, 0.0

    def moved(self) -> Floats:
        """Return the shift [n] of each impression."""
        return np.asarray(np.append(0.0, self.shifts)[self._codes], np.float64)

    def step(self, logits: Floats, labels: Floats, weights: Floats) -> float:
        """Improve the shifts by one Newton step, given log-odds with all shifts, and then the variance. Return the
        largest change."""
        chance, count = sigmoid(logits), len(self.names) + 1
        gradient = np.bincount(self._codes, weights * (labels - chance), count)[1:]
        curvature = np.bincount(self._codes, weights * chance * (1 - chance), count)[1:]
        before, total = self.shifts, curvature + 1 / self.variance
        self.shifts = before + np.clip((gradient - before / self.variance) / total, -1, 1)
        self.effective = float((curvature / total).sum())
        self.variance = max(_LEAST, float((self.shifts**2).sum()) / max(self.effective, _LEAST))
        return float(np.abs(self.shifts - before).max())


def divided(rows: pl.DataFrame, slot: str, places: dict[tuple[str, ...], int]) -> pl.Series:
    """Return the combination of segments [n] of each impression, as its number in `places`, which new ones join. A
    column says for which place of the page it was scored, null if that is unknown."""
    named = pl.col("segments").list.join(_BETWEEN)
    keys = rows.select(pl.concat_str(named, pl.format(slot_name("{}"), slot), separator=_BETWEEN, ignore_nulls=True))
    told = keys.to_series().unique().sort()
    numbers = [places.setdefault(tuple(one.split(_BETWEEN)), len(places)) for one in told]
    return keys.to_series().replace_strict(told, pl.Series(numbers, dtype=pl.Int64), return_dtype=pl.Int64)


def stepped(
    current: Mapping[str, float], fitted: Mapping[str, float], seen: Collection[str], most: float
) -> dict[str, float]:
    """Return the shifts of segments, moved towards the fitted ones, or 0 without one, by at most so much."""
    moved = {}
    for name in sorted(filter(field_of, seen)):
        before = current.get(name, 0.0)
        moved[name] = min(max(fitted.get(name, 0.0), before - most, -MAX_SHIFT), before + most, MAX_SHIFT)
    kept = sorted((name for name, shift in moved.items() if shift or name in current), key=lambda one: -abs(moved[one]))
    return {name: moved[name] for name in sorted(kept[:MAX_SEGMENTS])}


def fit_segments(divisions: Divisions, logits: Floats, labels: Floats, weights: Floats) -> dict[str, float]:
    """Return shifts of log-odds by segment that make corrected `logits` [n] agree with labels [n].

    A field stays out unless it gains surely more log-likelihood than its effective number of parameters (Akaike), which
    chance alone does once in a hundred times.
    """
    fields = [_Field(names, codes) for names, codes in divisions.fields()]
    _fit(fields, logits, labels, weights)
    if not fields:
        return {}
    whole = logits + sum(field.moved() for field in fields)
    kept = [
        field
        for field in fields
        if likelihood(whole, labels, weights) - likelihood(whole - field.moved(), labels, weights)
        > field.effective + _SURELY
    ]
    if len(kept) < len(fields):
        _fit(kept, logits, labels, weights)
    return {name: shift for field in kept for name, shift in zip(field.names, field.shifts.tolist(), strict=True)}


def _fit(fields: Sequence[_Field], logits: Floats, labels: Floats, weights: Floats) -> None:
    whole = logits + sum((field.moved() for field in fields), np.zeros(len(logits)))
    for _ in range(_SWEEPS):
        changes = []
        for field in fields:
            before = field.moved()
            changes.append(field.step(whole, labels, weights))
            whole = whole + field.moved() - before
        if max(changes, default=0.0) < _SETTLED:
            return


def likelihood(logits: Floats, labels: Floats, weights: Floats) -> float:
    """Return the weighted log-likelihood of labels [n]."""
    return -float(weights @ np.logaddexp(0, np.where(labels > 0, -logits, logits)))
