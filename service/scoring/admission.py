"""Admission control: accept no more requests than the scoring threads can score in time. While there is more work than
the full model can score in time, the lean graph scores (brownout).

Counts in the event loop's thread alone. Knows numbers, not requests.
"""

import math
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
# The lean graph takes over shortly before requests would be refused (`admission`).
_BEGINS = 0.4
# It ends when full runs of the offered work would fill less than this share of the threads' time: at a higher share, a
# burst would soon begin it again.
_ENDS = 0.8
_MEMORY_S = 1.0
_LEAST_S = 1.0
# Meanwhile one request in this time is scored in full: its run time, by which the end is decided, stays known.
_PROBE_S = 1.0
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
    """A number of candidates, and their expected run time; `lean_s` is that of the lean graph, None if it may not score
    them."""

    rows: int
    seconds: float
    lean_s: float | None = None


class Running(NamedTuple):
    """Current runs, in seconds: the expected remaining time of each; and the admitted time of those that are due before
    a given time."""

    left_s: Sequence[float]
    taken_on_s: float


class Admitted(NamedTuple):
    """An admitted load; `bucket` is its due time, in steps. `is_lean`: the lean graph scores it."""

    load: Load
    bucket: int
    is_lean: bool = False


class Brownout:
    """Whether the lean graph scores. `threads`: scoring threads. Times are those of `time.perf_counter`."""

    def __init__(self, metrics: Metrics, threads: int) -> None:
        self._threads = threads
        self._work = 0.0
        """Seconds of full runs offered lately, older ones fading."""
        self._work_at = 0.0
        self._began_at = self._probed_at = 0.0
        self._log = structlog.get_logger("msd.queue")
        self.is_on = False
        """As of the latest offer."""
        # Without requests, nothing else would end it.
        metrics.brownout.set_function(lambda: float(self.is_on and not self._ends(time.perf_counter())))

    def offer(self, now: float, seconds: float) -> None:
        """Count a request that a full run would score in `seconds`, accepted or not; and end if there are few."""
        self._work = self._left(now) + seconds
        self._work_at = now
        if self.is_on and self._ends(now):
            self.is_on = False
            self._log.warning("brownout_ends", seconds=round(now - self._began_at, 1))

    def offered(self, now: float) -> float:
        """Return the share of the threads' time that full runs of the offered work would take."""
        return self._left(now) / (_MEMORY_S * self._threads)

    def begin(self, now: float) -> None:
        """Score with the lean graph from now on."""
        if not self.is_on:
            self._began_at = self._probed_at = now
            self.is_on = True
            self._log.warning("brownout_begins", offered=round(self.offered(now), 2))

    def probes(self, now: float) -> bool:
        """Return whether a request is to be scored in full, to learn how long it takes; once in a second."""
        if now - self._probed_at < _PROBE_S:
            return False
        self._probed_at = now
        return True

    def _ends(self, now: float) -> bool:
        return now - self._began_at >= _LEAST_S and self.offered(now) < _ENDS

    def _left(self, now: float) -> float:
        return self._work * math.exp((self._work_at - now) / _MEMORY_S)


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
        self._brownout = Brownout(metrics, threads)
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
        if self._is_shedding and (load.lean_s is None or self._brownout.is_on):
            self.check(load if load.lean_s is None else Load(load.rows, load.lean_s), deadline)

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
        """Accept a load until `leave`. Raises Overloaded as `check` does, and if too many candidates would wait.

        If the lean graph may score it, a load is refused only if that would not be in time either.
        """
        self._check_rows(load.rows, deadline)
        is_lean = load.lean_s is not None and self._is_lean(load, deadline)
        if is_lean and load.lean_s is not None:
            load = Load(load.rows, load.lean_s)
        self.check(load, deadline)
        bucket = _bucket(time.perf_counter(), deadline)
        self._rows += load.rows
        self._counts[bucket] += 1
        self._seconds[bucket] = self._seconds.get(bucket, 0.0) + load.seconds
        self._tell()
        return Admitted(load, bucket, is_lean)

    def leave(self, admitted: Admitted) -> None:
        """Release a load that was scored, or need not be."""
        load, bucket, _ = admitted
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

    def _is_lean(self, load: Load, deadline: float) -> bool:
        """Return whether the lean graph scores a load; it begins to where the full one would soon be too late."""
        now, brownout = time.perf_counter(), self._brownout
        brownout.offer(now, load.seconds)
        wait = self._wait(now, deadline) if self._rows else 0.0
        is_tight = wait > 0.0 and wait + load.seconds > _BEGINS * (deadline - now)
        if is_tight:
            brownout.begin(now)
        return brownout.is_on and (is_tight or not brownout.probes(now))

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
