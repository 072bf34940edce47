"""Admission control: no more requests are taken on than the scoring threads can score in time.

Counts for itself and for the event loop's thread alone. Knows numbers, not requests.
"""

import time
from collections import Counter as Tally
from typing import NamedTuple

import structlog

from msd.contract.request import MAX_CANDIDATES
from service.errors import Overloaded
from service.telemetry.metrics import Metrics, Shed

# A burst may take half of the time there is: to read it, and what comes behind it, takes half as much again from those
# that score. When one was refused, more came than can be scored; then to let as many wait would only make all replies
# late, so that fewer wait until there is nobody but those being scored.
_BURST, _STANDING = 0.5, 0.3
_SAY_AGAIN_S = 10.0
_LEARNS = 0.05
# Of a body, for each candidate, before any was read: an id of some letters.
_BYTES_PER_ROW = 12.0


class Load(NamedTuple):
    """So many candidates, and how long they are expected to take."""

    rows: int
    seconds: float


class Admission:
    """What is taken on for `threads` scoring threads. Times are those of `time.perf_counter`."""

    def __init__(self, metrics: Metrics, max_rows: int, threads: int = 1, max_candidates: int = MAX_CANDIDATES) -> None:
        """`max_rows`: of candidates that wait, for each thread. `max_candidates`: of one request."""
        self._metrics = metrics
        self._max_rows = max_rows * threads
        self._threads = threads
        self._max_candidates = max_candidates
        self._rows = 0
        self._seconds = 0.0
        self._bytes_per_row = 0.0
        self._is_shedding = False
        self._unsaid: Tally[Shed] = Tally()
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.queue")

    @property
    def is_shedding(self) -> bool:
        """Whether one was refused of late for want of time, and others may be."""
        return self._is_shedding

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken on."""
        return not self._rows

    def check(self, load: Load, deadline: float) -> None:
        """Raises Overloaded when there would be too much to be done before the deadline."""
        # Where nobody waits everything is tried: what was learned may be of another time.
        if not self._rows:
            self._is_shedding = False
            return
        if self._seconds <= self._threads * load.seconds:
            self._is_shedding = False
        expected, left = self._seconds / self._threads + load.seconds, deadline - time.perf_counter()
        if expected > (_STANDING if self._is_shedding else _BURST) * left:
            self._is_shedding = True
            self.shed("wait")
            raise Overloaded(
                f"{self._rows} candidates are waiting; with these {load.rows} it would take {expected * 1000:.0f} ms,"
                f" too long for the {left * 1000:.0f} ms that there are for it"
            )

    def enter(self, load: Load, deadline: float) -> None:
        """Takes it on until `leave`. Raises Overloaded as `check` does, and when too many candidates would wait."""
        if self._rows + load.rows > self._max_rows:
            self.shed("rows")
            raise Overloaded(f"{self._rows} candidates are waiting; with these {load.rows} there would be too many")
        self.check(load, deadline)
        self._rows += load.rows
        self._seconds += load.seconds
        self._tell()

    def leave(self, load: Load) -> None:
        """It was scored, or need not be any more."""
        self._rows -= load.rows
        # Sums of many small numbers drift; where there are none, there is nothing.
        self._seconds = self._seconds - load.seconds if self._rows else 0.0
        self._tell()

    def read(self, size: int, rows: int) -> None:
        """A body of so many bytes had so many candidates."""
        self._bytes_per_row += (size / rows - self._bytes_per_row) * (_LEARNS if self._bytes_per_row else 1.0)

    def rows_in(self, size: int) -> int:
        """How many candidates a body of so many bytes is expected to have."""
        expected = round(size / (self._bytes_per_row or _BYTES_PER_ROW))
        # A request of more is refused when it is read, not because of what a large body might hold.
        return min(max(1, expected), self._max_candidates)

    def shed(self, reason: Shed) -> None:
        """Counts a request that is not scored. The log has a line for many: when there are any, there are many."""
        self._metrics.sheds[reason].inc()
        self._unsaid[reason] += 1
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("shedding", queued_rows=self._rows, requests=dict(self._unsaid))
            self._unsaid.clear()
            self._say_again_at = now + _SAY_AGAIN_S

    def _tell(self) -> None:
        self._metrics.queued_rows.set(self._rows)
        self._metrics.queued_seconds.set(self._seconds)
