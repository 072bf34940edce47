"""Exact list of durations, eight bytes each: recording is faster than finding a bucket, and percentiles are exact.

A histogram would bound the memory of endless runs; here an hour of 2,000 requests/s takes 58 MB. Recording time matters
more beside a measured service: hdrhistogram takes 1.4 µs, this .2. Knows no clock.
"""

from array import array
from typing import Self

import numpy as np


class Durations:
    """Recorded durations, in seconds."""

    def __init__(self) -> None:
        self._seconds = array("d")

    def record(self, seconds: float) -> None:
        """Record one."""
        self._seconds.append(seconds)

    def add(self, other: Self) -> None:
        """Record all of another list."""
        self._seconds.extend(other._seconds)

    @property
    def count(self) -> int:
        """The number of durations."""
        return len(self._seconds)

    @property
    def mean_ms(self) -> float:
        """The mean in milliseconds, NaN without any."""
        return 1e3 * float(np.mean(self._seconds)) if self._seconds else float("nan")

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile in milliseconds, NaN without any."""
        if not self._seconds:
            return float("nan")
        return 1e3 * float(np.percentile(self._seconds, percent, method="inverted_cdf"))
