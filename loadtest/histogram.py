"""Counts of durations in buckets whose width grows with them (as in HDR histograms): small, exact to 1 in 256.

Knows no clock.
"""

from typing import Self

import numpy as np

_SUB_BITS = 8
_SUB = 1 << _SUB_BITS
_LONGEST_BITS = 30  # of microseconds: 17 minutes
_PLACES = (_LONGEST_BITS - _SUB_BITS + 1) * (_SUB // 2) + _SUB


class Histogram:
    """Durations from a microsecond to 17 minutes; longer ones count as that."""

    def __init__(self) -> None:
        self._counts = [0] * _PLACES
        self.count = 0
        self.total = 0.0
        self.greatest = 0.0

    def record(self, seconds: float) -> None:
        """Counts one duration."""
        self._counts[place_of(int(seconds * 1e6))] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.greatest:
            self.greatest = seconds

    def add(self, other: Self) -> None:
        """Counts all that the other has counted."""
        self._counts = [one + more for one, more in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.total += other.total
        self.greatest = max(self.greatest, other.greatest)

    @property
    def mean_ms(self) -> float:
        """The mean in milliseconds, NaN of nothing."""
        return 1e3 * self.total / self.count if self.count else float("nan")

    def percentile_ms(self, percent: float) -> float:
        """The least duration that so many percent do not exceed, in milliseconds, NaN of nothing."""
        if not self.count:
            return float("nan")
        counts = np.cumsum(self._counts)
        due = max(1, int(np.ceil(self.count * percent / 100)))
        place = int(np.searchsorted(counts, due))
        return min(middle_of(place) / 1e3, 1e3 * self.greatest)


def place_of(microseconds: int) -> int:
    """The bucket of a duration: one each below 256 µs, then 128 an octave."""
    if microseconds < _SUB:
        return max(0, microseconds)
    shift = microseconds.bit_length() - _SUB_BITS
    return min((shift << (_SUB_BITS - 1)) + (microseconds >> shift), _PLACES - 1)


def middle_of(place: int) -> float:
    """The middle of a bucket, in microseconds."""
    if place < _SUB:
        return place + 0.5
    half = _SUB >> 1
    shift = place // half - 1
    return float((place - shift * half + 0.5) * (1 << shift))
