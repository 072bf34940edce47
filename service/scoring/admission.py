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

# A burst may take half of the time there is: to read it, and what comes behind it, takes half as much again from those
# that score. Once one was refused, more comes than can be scored, and a long queue would only make all replies late: so
# fewer may wait until nobody does.
_BURST, _STANDING = 0.5, 0.3
# A request is due when this share of its time is over: the rest is for its run. So one with a long deadline, which lets
# those that have less time go first, grows old in the queue, too.
_DUE = 0.5
_BUCKETS_PER_S = 20
# Requests with longer deadlines than the service's own may fill this share of the queue.
_PATIENT = 0.5
# A thread that wants Python's lock gets it after so long. With the usual 5 ms, a loop that a flood keeps busy leaves
# the scoring threads behind, which need the lock a few times a request. The shorter it is, the more time goes into
# switching: that pays only while much is refused.
_SWITCH_S, _SWITCH_SHEDDING_S = 0.0005, 0.00002
_SAY_AGAIN_S = 10.0
_LEARNS = 0.05
# Per candidate of a body, before any was read: an id of some letters.
_BYTES_PER_ROW = 12.0


def due_at(now: float, deadline: float) -> float:
    """When a request that came now is due: requests are scored in this order."""
    return now + _DUE * (deadline - now)


class Load(NamedTuple):
    """A number of candidates, and how long they are expected to take."""

    rows: int
    seconds: float


class AtHand(NamedTuple):
    """Runs at hand, in seconds: how long each is expected to take yet; and, of those that are due before a time, how
    long they were expected to take when they were taken on."""

    left_s: Sequence[float]
    taken_on_s: float


class Admitted(NamedTuple):
    """A load that was taken on; `bucket` is the time that it is due, in steps."""

    load: Load
    bucket: int


class Admission:
    """What is taken on for `threads` scoring threads. Times are those of `time.perf_counter`."""

    def __init__(
        self,
        metrics: Metrics,
        max_rows: int,
        threads: int = 1,
        max_candidates: int = MAX_CANDIDATES,
        patience_s: float = 60.0,
    ) -> None:
        """`max_rows`: candidates that may wait, per thread. `max_candidates`: of one request. `patience_s`: how long a
        deadline a request may have to fill more than half of the queue."""
        self._metrics = metrics
        self._max_rows = max_rows * threads
        # One request of the largest size is always possible.
        self._max_patient_rows = max(round(_PATIENT * self._max_rows), min(max_candidates, self._max_rows))
        self._threads = threads
        self._max_candidates = max_candidates
        self.patience_s = patience_s
        self.at_hand: Callable[[float], AtHand] = lambda due: AtHand((), 0.0)
        """The runs at hand, as seen by who is due at a time; the queue's to say."""
        self._rows = 0
        self._seconds: dict[int, float] = {}
        """Expected seconds of what is taken on, by the time it is due."""
        self._counts: Tally[int] = Tally()
        self._bytes_per_row = 0.0
        self._shed_more(False)
        self._unsaid: Tally[Shed] = Tally()
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.queue")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken on."""
        return not self._rows

    def check_unread(self, load: Load, deadline: float) -> None:
        """Raise Overloaded for a body that has not been read, if its size alone leaves no doubt."""
        self._check_rows(load.rows // 2, deadline)
        if self._is_shedding:
            self.check(load, deadline)

    def check(self, load: Load, deadline: float) -> None:
        """Raise Overloaded if what is due earlier, or runs, leaves too little time before the deadline."""
        if not self._rows:
            self._shed_more(False)
            return
        now = time.perf_counter()
        bucket = _bucket(now, deadline)
        at_hand = self.at_hand((bucket + 1) / _BUCKETS_PER_S)
        waiting = sum(seconds for due, seconds in self._seconds.items() if due <= bucket) - at_hand.taken_on_s
        wait = _filled(max(0.0, waiting), [*at_hand.left_s, *[0.0] * (self._threads - len(at_hand.left_s))])
        if wait <= load.seconds:
            self._shed_more(False)
        # If a thread is free for it, it is tried: what was learned may be of another time.
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
        """Take it on until `leave`. Raises Overloaded as `check` does, and if too many candidates would wait."""
        self._check_rows(load.rows, deadline)
        self.check(load, deadline)
        bucket = _bucket(time.perf_counter(), deadline)
        self._rows += load.rows
        self._counts[bucket] += 1
        self._seconds[bucket] = self._seconds.get(bucket, 0.0) + load.seconds
        self._tell()
        return Admitted(load, bucket)

    def leave(self, admitted: Admitted) -> None:
        """It was scored, or need not be any more."""
        load, bucket = admitted
        self._rows -= load.rows
        self._counts[bucket] -= 1
        self._seconds[bucket] -= load.seconds
        if not self._counts[bucket]:
            # Sums of many small numbers drift; where there are none, there is nothing.
            del self._counts[bucket], self._seconds[bucket]
        self._tell()

    def read(self, size: int, rows: int) -> None:
        """Learn that a body of `size` bytes had `rows` candidates."""
        self._bytes_per_row += (size / rows - self._bytes_per_row) * (_LEARNS if self._bytes_per_row else 1.0)

    def rows_in(self, size: int) -> int:
        """The number of candidates that a body of `size` bytes is expected to have."""
        expected = round(size / (self._bytes_per_row or _BYTES_PER_ROW))
        # A request of more is refused when it is read, not because of what a large body might hold.
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

    def _shed_more(self, is_shedding: bool) -> None:
        """Whether fewer are taken on from now."""
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
    """When threads that come free at these times have done `work` between them."""
    times = sorted(free_at)
    for count, at in enumerate(times, start=1):
        work += at
        if count == len(times) or work <= count * times[count]:
            break
    return work / count


def _bucket(now: float, deadline: float) -> int:
    return int(due_at(now, deadline) * _BUCKETS_PER_S)
