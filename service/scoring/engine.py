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
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

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
Cut = Callable[[int], Tensors]
"""Returns the tensors of the first candidates and, behind them, of an unknown one."""
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
    """A number of candidates, and their expected run time."""

    rows: int
    seconds: float


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

    def load_of(self, rows: int) -> Load:
        """Return what scoring that many candidates is expected to take."""
        return Load(rows, self.native.turn_s(rows))


@dataclass(frozen=True, slots=True)
class Done(Generic[_Result]):
    """The result of a job, and its wait and run time; the result of `shorten` if there was too little time for all
    candidates."""

    result: _Result
    queue_s: float
    run_s: float
    is_partial: bool = False


Ran = Done[Scores]
Told = Callable[[Done[_Result] | BaseException], None]
"""Called in the event loop with a job's outcome: its result; its error; or ClientGone, DeadlineExceeded or
CancelledError if it was dropped.
"""
Shorten: TypeAlias = Callable[[int], Callable[[], _Result]]
"""Returns the work of the first candidates and an unknown one."""


class AnyJob(Protocol[_Outcome]):
    """A job in the native core's form, and what its outcome is told to."""

    native: Any
    told: Callable[[Any], None] | None

    def outcome(self, metrics: Metrics) -> _Outcome | BaseException:
        """Return the outcome, once, and count the run."""
        ...


class Job(Generic[_Result]):
    """Python's work for one scoring thread with one model run in it, for one request."""

    __slots__ = ("native", "told")

    def __init__(
        self,
        work: Callable[[], _Result],
        runner: Runner,
        rows: int,
        deadline: float,
        is_gone: Callable[[], bool] | None = None,
        *,
        shorten: Shorten[_Result] | None = None,
        is_spare: bool = False,
    ) -> None:
        """`work` is called in the thread; `rows` is the number of candidates, `deadline` a time of `time.perf_counter`.

        `is_gone` says whether the client has left; it is called in the thread too. `shorten` is used if there is no
        time for all candidates. A spare job runs on spare capacity only: after every other job, and never in all
        threads at once.
        """
        self.native = _core().Job(work, shorten, is_gone, runner.native, rows, deadline, is_spare)
        self.told: Told[_Result] | None = None

    def outcome(self, metrics: Metrics) -> Done[_Result] | BaseException:
        """Return the outcome, once, and count the run."""
        ending, result, queued_at, started, ended, rows, is_partial = self.native.take_outcome()
        if started:
            metrics.stages["queue"].observe(started - queued_at)
            metrics.stages["run"].observe(ended - started)
            metrics.run_rows.observe(rows)
        if started and is_partial:
            metrics.partial.inc()
        return error_of(ending, result) or Done(result, started - queued_at, ended - started, is_partial)


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

    def rows_in(self, size: int) -> int:
        """Return the expected number of candidates in a body of `size` bytes."""
        rows: int = self.native.rows_in(size)
        return rows

    def read(self, size: int, rows: int) -> None:
        """Learn that a body of `size` bytes had `rows` candidates."""
        self.native.read(size, rows)

    def check_unread(self, load: Load, deadline: float) -> None:
        """Raise Overloaded for a body that has not been read, if its size alone leaves no doubt."""
        self._check(self.native.check(*load, deadline, True))

    def check(self, load: Load, deadline: float) -> None:
        """Raise Overloaded if earlier and running work leaves too little time before the deadline."""
        self._check(self.native.check(*load, deadline, False))

    def enter(self, load: Load, deadline: float) -> Admitted:
        """Accept a load until `leave`. Raises Overloaded as `check` does, and if too many candidates would wait."""
        return Admitted(load, self._check(self.native.enter(*load, deadline)))

    def release(self, admitted: Admitted) -> None:
        """Release a load that was scored, or need not be."""
        self.native.release(*admitted.load, admitted.bucket)

    def check_wanted(self, deadline: float, is_gone: Callable[[], bool]) -> None:
        """Raise ClientGone or DeadlineExceeded if a request needs no more work."""
        error = ClientGone() if is_gone() else None
        if error is None and time.perf_counter() > deadline:
            raise self._counted(DeadlineExceeded(_UNREAD))
        if error is not None:
            raise self._counted(error)

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

    def _check(self, judged: Any) -> Any:  # noqa: ANN401 - what the core says if it does not refuse
        self._shed_more(self.native.is_shedding)
        if isinstance(judged, tuple):
            reason, message = judged
            self.shed(reason)
            raise Overloaded(message)
        return judged

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
        cut: Cut | None = None,
        is_spare: bool = False,
    ) -> Ran:
        """Run a model once; with `cut`, fewer candidates if all would take too long. Raises what `do` does."""
        work, shorten = partial(runner.runtime.run, tensors), None if cut is None else partial(_shorten, runner, cut)
        return await self.do(Job(work, runner, rows, deadline, is_gone, shorten=shorten, is_spare=is_spare))

    async def do(self, job: AnyJob[_Outcome]) -> _Outcome:
        """Run a job in a scoring thread. Raises ClientGone or DeadlineExceeded if it is dropped, and what the work
        raises."""
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self.put(job, partial(_settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(job)
            raise

    def put(self, job: AnyJob[Any], told: Callable[[Any], None]) -> None:
        """As `do`, but calls `told` with the outcome. Raises CancelledError once the engine is closed."""
        self._listen()
        job.told = told
        if not self.native.put(job.native, job):
            raise asyncio.CancelledError(_CLOSED)

    def cancel(self, job: AnyJob[Any]) -> None:
        """Cancel a job: its caller is told at once, and it does not begin."""
        if job.native.claim():
            self._tell(job, asyncio.CancelledError())

    def close(self) -> None:
        """Begin no more jobs, and wait a bounded time for current ones."""
        for job in self.native.close():
            self._tell(job, asyncio.CancelledError(_CLOSED))
        left = self.native.join(_LAST_RUNS_S)
        if running := self.heartbeat().running:
            self._log.error("run_left_behind", requests=running, waited_s=_LAST_RUNS_S)
        for job in left:
            self._tell(job, asyncio.CancelledError(_CLOSED))

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
        self._tell_all(self.native.take_ended())

    def _tell_all(self, jobs: list[AnyJob[Any]]) -> None:
        for place, job in enumerate(jobs):
            try:
                self._tell(job, job.outcome(self._metrics))
            except BaseException:
                # If one callback fails, the others are still called.
                if self._loop is not None:
                    self._loop.call_soon(self._tell_all, jobs[place + 1 :])
                raise

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer requests past their deadline, even if no thread becomes free."""
        for job in self.native.claim_late():
            self._tell(job, DeadlineExceeded(_TOO_LATE))
        if self._loop is loop and self.native.is_busy:
            loop.call_later(_SWEEP_S, self._sweep, loop)
        elif self._loop is loop:
            self._is_sweeping = False

    def _tell(self, job: AnyJob[Any], outcome: object) -> None:
        told, job.told = job.told, None
        assert told is not None, "a job is answered once"
        told(self._counted(outcome) if isinstance(outcome, BaseException) else outcome)

    def _counted(self, error: BaseException) -> BaseException:
        if isinstance(error, ClientGone):
            self.shed("client_gone")
        elif isinstance(error, DeadlineExceeded):
            self.shed("deadline")
        return error


def _core() -> Any:  # noqa: ANN401 - the core has no types
    if native.core is None:
        raise MsdError(f"scoring needs the native core: {native.REASON}")
    return native.core


def _shorten(runner: Runner, cut: Cut, count: int) -> Callable[[], Scores]:
    return partial(runner.runtime.run, cut(count))


def _settle(future: "asyncio.Future[_Result]", outcome: _Result | BaseException) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, asyncio.CancelledError):
        future.cancel(_CLOSED)
    elif isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
