"""A runtime together with how long its recent runs took, by their numbers of candidates."""

import threading
from collections import Counter as Tally

from service.runtimes.choice import Together
from service.runtimes.runtime import Runtime

# What is expected is exceeded by every other: of those that begin, all but few are to end in time.
SURE = 0.7
# Of what a run takes, the part that is supposed not to depend on the number of candidates, until it is learned.
_FIXED = 0.3
# The first runs of a size are slower than those that follow.
_ENOUGH, _FADES, _FADES_SOON = 5, 0.98, 0.7


class Runner:
    """What the queue runs: one model's runtime, and what it learned of its times, which are no other model's."""

    __slots__ = ("run_s", "runtime", "together", "turn_s")

    def __init__(self, runtime: Runtime, together: Together | None = None) -> None:
        self.runtime = runtime
        self.together = together
        """What runs several requests at once, where that pays."""
        self.run_s = Learned(share=0.25, most=4.0, least_s=0.02)
        """How long one run takes."""
        self.turn_s = Learned(share=0.1, most=4.0)
        """How long until its thread can begin the next: with what other threads and processes take meanwhile."""


class Learned:
    """How long something takes of late, by the length of the number of candidates in bits.

    The newest has this share; it counts as at most so many times what was known, or as `least_s` if that is more: the
    machine may have stood still. Scoring threads and the event loop share it.
    """

    __slots__ = ("_least_s", "_lock", "_most", "_seconds", "_share", "_times")

    def __init__(self, share: float, most: float, least_s: float = 0.0) -> None:
        self._share, self._most, self._least_s = share, most, least_s
        self._seconds: dict[int, float] = {}
        self._times: Tally[int] = Tally()
        self._lock = threading.Lock()

    def of(self, rows: int, unknown: float) -> float:
        """Seconds for so many candidates."""
        # A single look at a dict needs no lock.
        return self._seconds.get(rows.bit_length(), unknown)

    def fitting(self, rows: int, seconds: float) -> int:
        """How many of so many candidates can be expected to be done in that time: all of them where it is not known,
        else three at least, or 0.
        """
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size)
            if known is None or known <= seconds:
                return rows
            # What was learned may be of another time: the more often it is believed, the less it counts.
            self._seconds[size] = known * (_FADES if self._times[size] >= _ENOUGH else _FADES_SOON)
            for bits in range(size - 1, 1, -1):
                fewer = (1 << bits) - 1
                if self._seconds.get(bits, known * (_FIXED + (1 - _FIXED) * fewer / rows)) <= seconds:
                    return fewer
            return 0

    def learn(self, rows: int, seconds: float) -> None:
        """So long it took."""
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size, seconds)
            self._seconds[size] = known + (min(seconds, max(self._most * known, self._least_s)) - known) * self._share
            self._times[size] += 1
