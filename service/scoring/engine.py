"""The scoring threads and their one queue, as the event loop sees them: admission, jobs and their outcomes.

The native core decides and runs (`native/engine`). Methods are for the event loop unless they say otherwise. Knows
neither rows nor HTTP.
"""

import asyncio
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

import native
from msd.contract.assemble import Tensors
from msd.contract.errors import MsdError
from msd.contract.request import MAX_CANDIDATES
from service.errors import ClientGone, DeadlineExceeded, Overloaded
from service.runtimes.runtime import Runtime, Scores
from service.telemetry.metrics import Metrics, Shed

_Result = TypeVar("_Result")
_Outcome = TypeVar("_Outcome", covariant=True)
_CLOSED = "the service is shutting down"
_UNREAD = "deadline exceeded before the request was queued: its client, or the service's event loop, was slow"
_BEFORE = "deadline exceeded before a scoring thread was free"
_TOO_LATE = "deadline exceeded: no scoring thread was free in time, or the run did not end"
_NO_TIME = "deadline exceeded: too little time left for one model run"
# Interval at which jobs past their deadline are looked for.
_SWEEP_S = 0.05
# Maximum wait for current runs at shutdown.
_LAST_RUNS_S = 3.0
_SAY_AGAIN_S = 10.0
# Switch interval of Python's lock. With the default of 5 ms, a flood that keeps the event loop busy starves the scoring
# threads wherever they need the lock. A shorter interval costs more switching, which pays only while many requests are
# refused.
_SWITCH_S, _SWITCH_SHEDDING_S = 0.0005, 0.00002


class Heartbeat(NamedTuple):
    """The progress of the scoring threads; times are seconds."""

    threads: int
    running: int
    """Threads that run a job."""
    waiting: int
    """Waiting jobs."""
    quiet_s: float
    """Since a thread last began or ended a job, or work arrived at an idle queue; 0 without work."""
    longest_s: float
    """Duration of the longest current run; 0 without one."""


class Load(NamedTuple):
    """A number of candidates, their expected run time, and the name of the API key that asks, if keys are required."""

    rows: int
    seconds: float
    key: str = ""


class Admitted(NamedTuple):
    """An admitted load; `bucket` is its due time, in steps."""

    load: Load
    bucket: int


class Runner:
    """One model's runtime, and its learned run times."""

    __slots__ = ("native", "runtime")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.native = _core().Runner()

    def load_of(self, rows: int, key: str = "", form: int = 0) -> Load:
        """Return what scoring that many candidates is expected to take, of a form by the core's number."""
        return Load(rows, self.native.turn_s(rows, form), key)


@dataclass(frozen=True, slots=True)
class Done(Generic[_Result]):
    """The result of a job, and its wait and run time in seconds."""

    result: _Result
    queue_s: float
    run_s: float


Ran = Done[Scores]


class AnyJob(Protocol[_Outcome]):
    """A job in the native core's form, and the future of its outcome."""

    native: Any
    future: "asyncio.Future[Any] | None"

    def outcome(self, metrics: Metrics) -> _Outcome | BaseException:
        """Return the outcome, once, and count the run."""
        ...


class Job(Generic[_Result]):
    """Python's work for one scoring thread with one model run in it, for one request."""

    __slots__ = ("future", "native")

    def __init__(
        self,
        work: Callable[[], _Result],
        runner: Runner,
        rows: int,
        deadline: float,
        is_gone: Callable[[], bool] | None = None,
        *,
        is_spare: bool = False,
    ) -> None:
        """`work` is called in the thread; `rows` is the number of candidates, `deadline` a time of `time.perf_counter`.

        `is_gone` says whether the client has left; it is called in the thread too. A spare job runs on spare capacity
        only: after every other job, and never in all threads at once.
        """
        self.native = _core().Job(work, is_gone, runner.native, rows, deadline, is_spare)
        self.future: asyncio.Future[Done[_Result]] | None = None

    def outcome(self, metrics: Metrics) -> Done[_Result] | BaseException:
        """Return the outcome, once, and count the run."""
        ending, result, queued_at, started, ended, rows = self.native.take_outcome()
        if started:
            metrics.stages["queue"].observe(started - queued_at)
            metrics.stages["run"].observe(ended - started)
            metrics.run_rows.observe(rows)
        return error_of(ending, result) or Done(result, started - queued_at, ended - started)


def error_of(ending: int, result: object) -> BaseException | None:
    """Return the error that a job ended with, by the core's number; None if it is done."""
    match ending:
        case 1:
            return ClientGone()
        case 2:
            return DeadlineExceeded(_BEFORE)
        case 3:
            return DeadlineExceeded(_NO_TIME)
        case 4 if isinstance(result, BaseException):
            return result
    return None


class ScoringEngine:
    """`threads` scoring threads behind one queue."""

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
        self.native = _core().Engine(threads, max_rows, max_candidates, patience_s, metrics.native_bounds)
        self._metrics = metrics
        self._merging = threading.Lock()
        metrics.native.merge = self.merge_counts
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_sweeping = False
        self._is_shedding = True
        self._shed_more(False)
        self._unsaid: Tally[Shed] = Tally()
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.queue")
        metrics.queued_rows.set_function(lambda: self.native.admitted[0])
        metrics.queued_seconds.set_function(lambda: self.native.admitted[1])

    @property
    def is_idle(self) -> bool:
        """Return whether all accepted work is done."""
        return not self.native.admitted[0]

    def heartbeat(self) -> Heartbeat:
        """Return the progress of the scoring threads. For any thread."""
        return Heartbeat(*self.native.heartbeat())

    # Admission

    def rows_in(self, size: int, form: int = 0) -> int:
        """Return the expected number of candidates in a body of `size` bytes, of a form by the core's number."""
        rows: int = self.native.rows_in(size, form)
        return rows

    def read(self, size: int, rows: int, form: int = 0) -> None:
        """Learn that a body of `size` bytes had `rows` candidates."""
        self.native.read(size, rows, form)

    def enter(self, load: Load, deadline: float) -> Admitted:
        """Accept a load until `release`. Raises Overloaded if too many candidates would wait, or if earlier and running
        work leaves too little time before the deadline; DeadlineExceeded after it."""
        if time.perf_counter() > deadline:
            self.shed("deadline")
            raise DeadlineExceeded(_UNREAD)
        judged = self.native.enter(*load, deadline)
        self._shed_more(self.native.is_shedding)
        if isinstance(judged, tuple):
            reason, message = judged
            self.shed(reason)
            raise Overloaded(message)
        return Admitted(load, judged)

    def release(self, admitted: Admitted) -> None:
        """Release a load that was scored, or need not be."""
        self.native.release(*admitted.load, admitted.bucket)

    def merge_counts(self) -> None:
        """Add to the metrics what the native core has counted since the last time. For any thread."""
        with self._merging:
            if sheds := self._metrics.add_native(*self.native.take_tally()):
                self._say(sheds)

    def shed(self, reason: Shed) -> None:
        """Count a request that is not scored."""
        self._metrics.sheds[reason].inc()
        self._say({reason: 1})

    def _say(self, sheds: Mapping[Shed, int]) -> None:
        """Log one line for many requests that are not scored."""
        self._unsaid.update(sheds)
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("shedding", queued_rows=self.native.admitted[0], requests=dict(self._unsaid))
            self._unsaid.clear()
            self._say_again_at = now + _SAY_AGAIN_S

    def _shed_more(self, is_shedding: bool) -> None:
        if is_shedding != self._is_shedding:
            self._is_shedding = is_shedding
            sys.setswitchinterval(_SWITCH_SHEDDING_S if is_shedding else _SWITCH_S)

    # Jobs

    async def run(
        self,
        runner: Runner,
        tensors: Tensors,
        rows: int,
        deadline: float,
        is_gone: Callable[[], bool],
        is_spare: bool = False,
    ) -> Ran:
        """Run a model once. Raises what `do` does."""
        work = partial(runner.runtime.run, tensors)
        return await self.do(Job(work, runner, rows, deadline, is_gone, is_spare=is_spare))

    async def do(self, job: AnyJob[_Outcome]) -> _Outcome:
        """Run a job in a scoring thread. Raises ClientGone or DeadlineExceeded if it is dropped, and what the work
        raises."""
        self._listen()
        job.future = future = asyncio.get_running_loop().create_future()
        if not self.native.put(job.native, job):
            raise asyncio.CancelledError(_CLOSED)
        try:
            found: _Outcome = await future
            return found
        except asyncio.CancelledError:
            # It does not begin any more.
            job.native.claim()
            raise

    def close(self) -> None:
        """Begin no more jobs, and wait a bounded time for current ones."""
        for job in self.native.close():
            self._settle(job, asyncio.CancelledError(_CLOSED))
        left = self.native.join(_LAST_RUNS_S)
        if running := self.heartbeat().running:
            self._log.error("run_left_behind", requests=running, waited_s=_LAST_RUNS_S)
        for job in left:
            self._settle(job, asyncio.CancelledError(_CLOSED))

    def _listen(self) -> None:
        """Hear from the running loop of jobs that end or are late."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._is_sweeping = loop, False
            loop.add_reader(self.native.descriptor, self._take_back)
        if not self._is_sweeping:
            self._is_sweeping = True
            loop.call_later(_SWEEP_S, self._sweep, loop)

    def _take_back(self) -> None:
        for job in self.native.take_ended():
            self._settle(job, job.outcome(self._metrics))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer requests past their deadline, even if no thread becomes free."""
        for job in self.native.claim_late():
            self._settle(job, DeadlineExceeded(_TOO_LATE))
        if self._loop is loop and self.native.is_busy:
            loop.call_later(_SWEEP_S, self._sweep, loop)
        elif self._loop is loop:
            self._is_sweeping = False

    def _settle(self, job: AnyJob[Any], outcome: object) -> None:
        if isinstance(outcome, ClientGone):
            self.shed("client_gone")
        elif isinstance(outcome, DeadlineExceeded):
            self.shed("deadline")
        future, job.future = job.future, None
        if future is None or future.done():  # cancelled meanwhile
            return
        if isinstance(outcome, asyncio.CancelledError):
            future.cancel(_CLOSED)
        elif isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _core() -> Any:  # noqa: ANN401 - the core has no types
    if native.core is None:
        raise MsdError(f"scoring needs the native core: {native.REASON}")
    return native.core
