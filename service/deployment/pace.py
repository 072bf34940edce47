"""Pace of work beside requests: after each step of it, a rest in which they catch up.

The thread that works keeps the priority of those that serve: one that has less, and Python's lock, keeps them waiting
for as long as it waits for a core itself. Does not know what the steps do.
"""

import threading
import time
from collections.abc import Callable

_LONGEST_S = 0.5


class Stopped(Exception):
    """The work is not wanted any more."""


class Pace:
    """One thread's. A rest is `rest` times as long as the step before took by the clock, because a runtime may compute
    in threads of its own, and half a second at most."""

    def __init__(self, rest: float = 0.0, sleep: Callable[[float], object] | None = None) -> None:
        """`sleep` is how a rest is spent; by default until it is over or `stop` is called."""
        self._rest = rest
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A step begins here: what came before was waiting."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """A step has ended. Raises Stopped after `stop`."""
        if seconds := min(_LONGEST_S, self._rest * (time.perf_counter() - self._since)):
            self._sleep(seconds)
        self.check()
        self.begin()

    def check(self) -> None:
        """Raises Stopped after `stop`."""
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """Ends the work at its next pause. Any thread may call it."""
        self._stopped.set()

    def sleep(self, seconds: float) -> bool:
        """Waits for so long, or until `stop`; whether to go on."""
        return not self._stopped.wait(seconds)
