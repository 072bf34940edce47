"""Background load while something is done to the service: an open loop in a thread, whose replies are kept. Knows no
services' processes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from lab.chaos.timeline import Mark, Sample, ScenarioTimeline, kind_of
from loadtest.generator import LoadLimits, Seen, Target, closed_loop, open_loop
from loadtest.http_client import ClientError, ServiceConnection
from loadtest.outcome import Outcome
from loadtest.traffic import poisson

_WARM_UP_S = 0.5
_CLIENTS = 8


def capacity(target: Target, seconds: float) -> float:
    """Return the scored requests per second of a closed loop of a few clients. Raises ClientError if none are
    scored.

    Requests in progress at the end count, and so does the time that they take, and degraded ones: even on a slow
    machine, where Redis may always be late, some are scored.
    """
    closed_loop(target, _CLIENTS, min(_WARM_UP_S, seconds))
    start = time.monotonic()
    scored = closed_loop(target, _CLIENTS, seconds).statuses[200]
    if not scored:
        raise ClientError(f"{target.url}: no request was scored")
    return scored / (time.monotonic() - start)


@contextmanager
def asking(
    url: str, pause_s: float, turn: Callable[[ServiceConnection], None], failed: Callable[[ClientError], None]
) -> Iterator[None]:
    """Run a client's turns with pauses, in a separate thread until the block's end."""
    stopped = threading.Event()

    def run() -> None:
        with ServiceConnection(url) as client:
            while not stopped.wait(pause_s):
                try:
                    turn(client)
                except ClientError as error:
                    failed(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class BackgroundLoad:
    """Sends `rate` requests per second from the block's beginning; the block's end waits for the last replies.

    Afterwards `timeline` has the outcomes, and `seen` all replies. Raises ClientError at the end if the load could not
    be generated.
    """

    def __init__(self, target: Target, rate: float, seconds: float) -> None:
        self.seen: list[Seen] = []
        self.timeline = ScenarioTimeline()
        self.outcome = Outcome(seconds)
        self._target, self.seconds = target, seconds
        self._times = poisson(rate, seconds)
        self._error: ClientError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()
        # Parsed only now: during the load it would take time from the service.
        self.timeline.samples = [self._sample(seen) for seen in self.seen]
        if self._error and error is None:
            raise self._error

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def until(self, at_s: float) -> None:
        """Wait for that second."""
        time.sleep(max(0.0, at_s - self.now_s))

    def mark(self, what: str) -> float:
        """Record what has just been done, and return the second."""
        now = self.now_s
        self.timeline.marks.append(Mark(now, what))
        return now

    def stop(self) -> None:
        """Send no more requests."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            limits = LoadLimits(goes_on=True)
            self.outcome = open_loop(self._target, self._times, self.seconds, limits, self.seen.append, self._stopped)
        except ClientError as error:
            self._error = error

    def _sample(self, seen: Seen) -> Sample:
        return Sample(seen.due - self._start, 1e3 * (seen.over - seen.due), kind_of(seen))
