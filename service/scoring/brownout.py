"""Brownout: while there is more work than the full model can score in time, requests get its lean graph.

Counts in the event loop's thread alone. Knows seconds, not requests.
"""

import math
import time

import structlog

from service.telemetry.metrics import Metrics

# The lean graph takes over shortly before requests would be refused (`admission`).
BEGINS = 0.4
# It ends when full runs of the offered work would fill less than this share of the threads' time: at a higher share, a
# burst would soon begin it again.
_ENDS = 0.8
_MEMORY_S = 1.0
_LEAST_S = 1.0
# Meanwhile one request in this time is scored in full: its run time, by which the end is decided, stays known.
_PROBE_S = 1.0


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
