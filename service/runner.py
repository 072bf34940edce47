"""A runtime together with how long its runs took of late, by their numbers of candidates."""

import math

from service.runtimes.runtime import Runtime
from service.runtimes.together import Together


class Runner:
    """What the queue runs: one model's runtime, and what it learned of its times, which are no other model's."""

    __slots__ = ("run_s", "runtime", "together", "turn_s")

    def __init__(self, runtime: Runtime, together: Together | None = None) -> None:
        self.runtime = runtime
        self.together = together
        """What runs several requests at once, where that pays."""
        self.run_s = Learned(share=0.25)
        """How long one run takes."""
        self.turn_s = Learned(share=0.1, most=4.0)
        """How long until the next can begin: with what else is done for a request, and what other processes take."""


class Learned:
    """How long something takes of late, by the length of the number of candidates in bits.

    The newest has this share; it counts as at most so many times what was known: the machine may have stood still.
    """

    __slots__ = ("_most", "_seconds", "_share")

    def __init__(self, share: float, most: float = math.inf) -> None:
        self._share, self._most = share, most
        self._seconds: dict[int, float] = {}

    def of(self, rows: int, unknown: float) -> float:
        """Seconds for so many candidates."""
        return self._seconds.get(rows.bit_length(), unknown)

    def learn(self, rows: int, seconds: float) -> None:
        """So long it took."""
        size = rows.bit_length()
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + (min(seconds, self._most * known) - known) * self._share
