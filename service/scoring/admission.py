"""Admission control: accept no more requests than the scoring threads can score in time.

Counts in the event loop's thread alone. Knows numbers, not requests.
"""

import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from msd.contract.request import MAX_CANDIDATES
from service.errors import Overloaded
from service.telemetry.metrics import Metrics, Shed

# A burst may fill half of a request's time: reading it, and what follows it, takes half as much again from scoring.
# After a refusal more arrives than can be scored, and a long queue would only delay all replies: the limit is then
# lower, until no request waits.
_BURST, _STANDING = 0.5, 0.3
# A request is due when this share of its time is over; the rest is for its run. A long deadline lets others go first,
# but the request still ages in the queue.
_DUE = 0.5
_BUCKETS_PER_S = 20
# Requests with longer deadlines than the service's default may fill this share of the queue.
_PATIENT = 0.5
# Switch interval of Python's lock. With the default of 5 ms, a flood that keeps the event loop busy starves the scoring
# threads, which need the lock a few times per request. A shorter interval costs more switching, which pays only while
# many requests are refused.
_SWITCH_S, _SWITCH_SHEDDING_S = 0.0005, 0.00002
_SAY_AGAIN_S = 10.0
_LEARNS = 0.05
# Bytes per candidate, before any body was read: a short ID.
_BYTES_PER_ROW = 12.0


def due_at(now: float, deadline: float) -> float:
    """Return the due time of a request that arrives now: requests are scored in this order."""
    return now + _DUE * (deadline - now)


class Load(NamedTuple):
    """A number of candidates, and their expected run time."""

    rows: int
    seconds: float


class Running(NamedTuple):
    """Current runs, in seconds: the expected remaining time of each; and the admitted time of those that are due before
    a given time."""

    left_s: Sequence[float]
    taken_on_s: float


class Admitted(NamedTuple):
    """An admitted load; `bucket` is its due time, in steps."""

    load: Load
    bucket: int


class Admission:
    """Accepted work of `threads` scoring threads. Times are those of `time.perf_counter`."""

    def __init__(
        self,
        metrics: Metrics,
        max_rows: int,
        threads: int = 1,
        max_candidates: int = MAX_CANDIDATES,
        patience_s: float = 60.0,
    ) -> None:
        """`max_rows`: maximum waiting candidates per thread. `max_candidates`: of one request. `patience_s`: requests
        with longer deadlines may fill only half of the queue."""
        self._metrics = metrics
        self._max_rows = max_rows * threads
        # One request of the maximum size always fits.
        self._max_patient_rows = max(round(_PATIENT * self._max_rows), min(max_candidates, self._max_rows))
        self._threads = threads
        self._max_candidates = max_candidates
        self.patience_s = patience_s
        self.running: Callable[[float], Running] = lambda due: Running((), 0.0)
        """The current runs, for a request that is due at a time; set by the queue."""
        self._rows = 0
        self._seconds: dict[int, float] = {}
        """Expected seconds of accepted work, by due time."""
        self._counts: Tally[int] = Tally()
        self._bytes_per_row = 0.0
        self._shed_more(False)
        self._unsaid: Tally[Shed] = Tally()
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.queue")

    @property
    def is_empty(self) -> bool:
        return not self._rows

    def check_unread(self, load: Load, deadline: float) -> None:
        """Raise Overloaded for a body that has not been read, if its size alone leaves no doubt."""
        self._check_rows(load.rows // 2, deadline)
        if self._is_shedding:
            self.check(load, deadline)

    def check(self, load: Load, deadline: float) -> None:
        """Raise Overloaded if earlier and running work leaves too little time before the deadline."""
        if not self._rows:
            self._shed_more(False)
            return
        now = time.perf_counter()
        wait = self._wait(now, deadline)
        if wait <= load.seconds:
            self._shed_more(False)
        # If a thread is free, try it: the learned times may be outdated.
        if not wait:
            return
        expected, left = wait + load.seconds, deadline - now
        if expected > (_STANDING if self._is_shedding else _BURST) * left:
            self._shed_more(True)
            self.shed("wait")
            raise Overloaded(
                f"{self._rows} candidates are queued; with these {load.rows} it would take {expected * 1000:.0f} ms,"
                f" but {left * 1000:.0f} ms are left before the deadline"
            )

    def enter(self, load: Load, deadline: float) -> Admitted:
        """Accept a load until `leave`. Raises Overloaded as `check` does, and if too many candidates would wait."""
        self._check_rows(load.rows, deadline)
        self.check(load, deadline)
        bucket = _bucket(time.perf_counter(), deadline)
        self._rows += load.rows
        self._counts[bucket] += 1
        self._seconds[bucket] = self._seconds.get(bucket, 0.0) + load.seconds
        self._tell()
        return Admitted(load, bucket)

    def leave(self, admitted: Admitted) -> None:
        """Release a load that was scored, or need not be."""
        load, bucket = admitted
        self._rows -= load.rows
        self._counts[bucket] -= 1
        self._seconds[bucket] -= load.seconds
        if not self._counts[bucket]:
            # Sums of many small numbers drift, so an empty bucket is removed.
            del self._counts[bucket], self._seconds[bucket]
        self._tell()

    def read(self, size: int, rows: int) -> None:
        """Learn that a body of `size` bytes had `rows` candidates."""
        self._bytes_per_row += (size / rows - self._bytes_per_row) * (_LEARNS if self._bytes_per_row else 1.0)

    def rows_in(self, size: int) -> int:
        """Return the expected number of candidates in a body of `size` bytes."""
        expected = round(size / (self._bytes_per_row or _BYTES_PER_ROW))
        # Larger requests are refused when they are read, not for what a large body might contain.
        return min(max(1, expected), self._max_candidates)

    def shed(self, reason: Shed) -> None:
        """Count a request that is not scored. The log gets one line for many."""
        self._metrics.sheds[reason].inc()
        self._unsaid[reason] += 1
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("shedding", queued_rows=self._rows, requests=dict(self._unsaid))
            self._unsaid.clear()
            self._say_again_at = now + _SAY_AGAIN_S

    def _wait(self, now: float, deadline: float) -> float:
        """Return the seconds until a request that arrives now would begin to run."""
        bucket = _bucket(now, deadline)
        running = self.running((bucket + 1) / _BUCKETS_PER_S)
        waiting = sum(seconds for due, seconds in self._seconds.items() if due <= bucket) - running.taken_on_s
        return _filled(max(0.0, waiting), [*running.left_s, *[0.0] * (self._threads - len(running.left_s))])

    def _shed_more(self, is_shedding: bool) -> None:
        """Switch between the normal and the lower limit."""
        self._is_shedding = is_shedding
        sys.setswitchinterval(_SWITCH_SHEDDING_S if is_shedding else _SWITCH_S)

    def _check_rows(self, rows: int, deadline: float) -> None:
        is_patient = deadline - time.perf_counter() > self.patience_s
        if self._rows + rows > (self._max_patient_rows if is_patient else self._max_rows):
            self.shed("rows")
            raise Overloaded(
                f"{self._rows} candidates are queued; with these {rows} there would be too many"
                + (" for a deadline as long as this" if is_patient else "")
            )

    def _tell(self) -> None:
        self._metrics.queued_rows.set(self._rows)
        self._metrics.queued_seconds.set(sum(self._seconds.values()))


def _filled(work: float, free_at: Sequence[float]) -> float:
    """Return when threads that become free at these times have done `work` together."""
    times = sorted(free_at)
    for count, at in enumerate(times, start=1):
        work += at
        if count == len(times) or work <= count * times[count]:
            break
    return work / count


def _bucket(now: float, deadline: float) -> int:
    return int(due_at(now, deadline) * _BUCKETS_PER_S)
