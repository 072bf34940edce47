"""The scoring threads and their one queue, as Python sees them: their progress, and what they have counted.

The native core decides and runs (`native/engine`). Knows neither rows nor HTTP.
"""

import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Mapping

import structlog

import native
from msd.contract.errors import MsdError
from msd.contract.request import MAX_CANDIDATES
from service.telemetry.metrics import Metrics, Shed

# Maximum wait for current runs at shutdown.
_LAST_RUNS_S = 3.0
_LOG_AGAIN_S = 10.0
# Switch interval of Python's lock. With the default of 5 ms, a busy event loop starves the scoring threads wherever
# they need the lock.
_SWITCH_S = 0.0005


class ScoringEngine:
    """`threads` scoring threads behind one queue. For any thread."""

    def __init__(
        self,
        metrics: Metrics,
        max_rows: int,
        threads: int = 1,
        max_candidates: int = MAX_CANDIDATES,
        patience_s: float = 60.0,
    ) -> None:
        """`max_rows`: maximum waiting candidates per thread. `max_candidates`: of one request. `patience_s`: requests
        with longer deadlines may fill only half of the queue.

        Raises MsdError if the native core is not there.
        """
        if native.core is None:
            raise MsdError(f"scoring needs the native core: {native.REASON}")
        self.native = native.core.Engine(
            threads=threads,
            max_rows=max_rows,
            max_candidates=max_candidates,
            patience_s=patience_s,
            bounds=metrics.native_bounds,
        )
        self._metrics = metrics
        self._lock = threading.Lock()
        metrics.native.merge = self.merge_counts
        sys.setswitchinterval(_SWITCH_S)
        self._unlogged: Tally[Shed] = Tally()
        self._log_again_at = 0.0
        self._log = structlog.get_logger("msd.queue")
        metrics.queued_rows.set_function(lambda: self.native.admitted[0])
        metrics.queued_seconds.set_function(lambda: self.native.admitted[1])

    @property
    def is_idle(self) -> bool:
        """Return whether all accepted work is done."""
        return not self.native.admitted[0]

    def heartbeat(self) -> "native.core.Heartbeat":
        """Return the progress of the scoring threads."""
        return self.native.heartbeat()

    def merge_counts(self) -> None:
        """Add to the metrics what the native core has counted since the last time."""
        with self._lock:
            if sheds := self._metrics.add_native(*self.native.take_tally()):
                self._log_sheds(sheds)

    def shed(self, reason: Shed) -> None:
        """Count a request that is not scored."""
        with self._lock:
            self._metrics.sheds[reason].inc()
            self._log_sheds({reason: 1})

    def close(self) -> None:
        """Begin no more jobs, and wait a bounded time for current ones."""
        self.native.close()
        self.native.join(_LAST_RUNS_S)
        if running := self.heartbeat().running:
            self._log.error("run_left_behind", requests=running, waited_s=_LAST_RUNS_S)

    def _log_sheds(self, sheds: Mapping[Shed, int]) -> None:
        """Log one line for many requests that are not scored."""
        self._unlogged.update(sheds)
        now = time.perf_counter()
        if now >= self._log_again_at:
            self._log.warning("shedding", queued_rows=self.native.admitted[0], requests=dict(self._unlogged))
            self._unlogged.clear()
            self._log_again_at = now + _LOG_AGAIN_S
