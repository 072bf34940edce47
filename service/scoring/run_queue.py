"""The service's one queue of scoring jobs, by earliest due time.

The event loop puts jobs in and gets results back; a free thread takes the job that is due first. Knows neither rows nor
HTTP.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn, TypeVar

import structlog

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded
from service.runtimes.runtime import Scores
from service.scoring.admission import Admission, Running, due_at
from service.scoring.job import Done, Job, Ran, Runner, Told, Waiting, check, fit_deadline
from service.telemetry.metrics import Metrics

Cut = Callable[[int], Tensors]
"""Returns the tensors of the first candidates and, behind them, of an unknown one."""
_Result = TypeVar("_Result")
_CLOSED = "the service is shutting down"
_TOO_LATE = "deadline exceeded: no scoring thread was free in time, or the run did not end"
# Interval at which jobs past their deadline are looked for.
_SWEEP_S = 0.05
# A run may end shortly after the deadline, and its reply is still sent; after this it is abandoned.
_OVERRUN_S = 5.0
# Maximum wait for current runs at shutdown.
_LAST_RUNS_S = 3.0


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


class RunQueue:
    """`threads` scoring threads behind one queue. Methods are for the event loop unless they say otherwise."""

    def __init__(self, metrics: Metrics, admission: Admission, threads: int = 1) -> None:
        self.admission = admission
        self._metrics = metrics
        self._waiting = Waiting(threads)
        self._ended: deque[Job[Any]] = deque()
        self._running: dict[int, tuple[float, Job[Any]]] = {}
        """By thread: when the job began, and the job."""
        self._moved_at = 0.0
        self._is_closed = False
        self._woken: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        """Guards everything above; held briefly, never during a run."""
        self._sweeps: asyncio.AbstractEventLoop | None = None
        # One token per job: an idle thread waits here, where waiting is cheapest.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._log = structlog.get_logger("msd.queue")
        admission.running = self._running_for

    @property
    def is_idle(self) -> bool:
        """Return whether all accepted work is done."""
        return self.admission.is_empty

    def heartbeat(self) -> Heartbeat:
        """Return the progress of the scoring threads. For any thread."""
        now = time.perf_counter()
        with self._lock:
            running, waiting = len(self._running), len(self._waiting)
            longest_s = max((now - began for began, _ in self._running.values()), default=0.0)
            quiet_s = now - self._moved_at if running or waiting else 0.0
        return Heartbeat(self._count, running, waiting, quiet_s, longest_s)

    def check(self, deadline: float, is_gone: Callable[[], bool]) -> None:
        """Raise ClientGone or DeadlineExceeded if a request needs no more work."""
        try:
            check(deadline, is_gone)
        except (ClientGone, DeadlineExceeded) as error:
            self._count_shed(error)
            raise

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
        return await self.do(Job(work, runner, rows, deadline, is_gone, True, shorten, is_spare))

    async def do(self, job: Job[_Result]) -> Done[_Result]:
        """Run a job in a scoring thread. Raises ClientGone or DeadlineExceeded if it is dropped, and what the work
        raises."""
        future: asyncio.Future[Done[_Result]] = asyncio.get_running_loop().create_future()
        self.put(job, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(job)
            raise

    def put(self, job: Job[_Result], told: Told[_Result]) -> None:
        """As `do`, but calls `told` with the outcome. Raises CancelledError once the queue is closed."""
        job.queued_at = time.perf_counter()
        job.told, job.loop = told, asyncio.get_running_loop()
        job.due = due_at(job.queued_at, job.deadline)
        job.expected_s = job.runner.turn_s.of(job.rows, 0.0)
        job.is_patient = job.deadline - job.queued_at > self.admission.patience_s
        with self._lock:
            if self._is_closed:
                raise asyncio.CancelledError(_CLOSED)
            if not (self._running or self._waiting):
                self._moved_at = job.queued_at
            self._waiting.put(job)
        if not self._threads:
            self._start()
        self._tokens.put(None)
        if self._sweeps is not job.loop:
            self._sweeps = job.loop
            job.loop.call_later(_SWEEP_S, self._sweep)

    def cancel(self, job: Job[Any]) -> None:
        """Cancel a job: its caller is told at once, and it does not begin."""
        if job.claim():
            self._tell(job, asyncio.CancelledError())

    def leave(self, job: Job[Any]) -> None:
        """Drop a job whose client has left, unless it runs; it delays no other job any more."""
        with self._lock:
            is_begun = any(job is running for _, running in self._running.values())
        if not is_begun and job.claim():
            self._tell(job, ClientGone())

    def close(self) -> None:
        """Begin no more jobs, and wait a bounded time for current ones."""
        with self._lock:
            self._is_closed = True
            waiting = self._waiting.take_all()
        self._give_up(waiting)
        for _ in self._threads:
            self._tokens.put(None)
        end = time.monotonic() + _LAST_RUNS_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            left = [job for _, job in self._running.values()]
        if left:
            self._log.error("run_left_behind", requests=len(left), waited_s=_LAST_RUNS_S)
            self._give_up(left)

    def _give_up(self, jobs: list[Job[Any]]) -> None:
        for job in jobs:
            if job.claim():
                self._tell(job, asyncio.CancelledError(_CLOSED))

    def _sweep(self) -> None:
        """Answer requests past their deadline, even if no thread becomes free."""
        now = time.perf_counter()
        with self._lock:
            late = self._waiting.take_late(now)
            late += [job for _, job in self._running.values() if job.deadline + _OVERRUN_S < now]
            is_idle = not (self._running or self._waiting)
        for job in late:
            if job.claim():
                self._tell(job, DeadlineExceeded(_TOO_LATE))
        loop = self._sweeps
        if is_idle or loop is None:
            self._sweeps = None
        else:
            loop.call_later(_SWEEP_S, self._sweep)

    def _running_for(self, due: float) -> Running:
        now = time.perf_counter()
        with self._lock:
            running = list(self._running.values())
        return Running(
            [max(0.0, job.expected_s - (now - began)) for began, job in running],
            sum(job.expected_s for _, job in running if job.due < due and not job.is_spare),
        )

    def _start(self) -> None:
        # Daemon threads: a hanging run must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._score, args=(number,), name=f"scoring-{number}", daemon=True)
            for number in range(1, self._count + 1)
        ]
        for thread in self._threads:
            thread.start()

    # In the scoring threads

    def _score(self, number: int) -> None:
        free_at = 0.0
        while True:
            self._tokens.get()
            if self._is_closed:
                return
            free_at = self._next(number, free_at)

    def _next(self, number: int, free_at: float) -> float:
        """Run the job that is due first, if there is one. Its references are released before waiting for another."""
        job = self._take(number)
        return free_at if job is None else self._run(number, job, free_at)

    def _take(self, number: int) -> Job[Any] | None:
        """Take the job that is due first; hand back dropped ones."""
        while True:
            with self._lock:
                job = self._waiting.pop([running for _, running in self._running.values()])
                if job is None:
                    return None
                self._moved_at = time.perf_counter()
                self._running[number] = self._moved_at, job
            refusal = None if job.is_claimed else fit_deadline(job)
            if refusal is None and not job.is_claimed:
                return job
            with self._lock:
                del self._running[number]
            if refusal is not None:
                job.outcome = refusal
                self._hand_back([job])

    def _run(self, number: int, job: Job[Any], free_at: float) -> float:
        """Run a job, and return when the thread became free."""
        job.started = started = time.perf_counter()
        try:
            job.outcome = job.work()
        except Exception as error:
            job.outcome = error
        ended = time.perf_counter()
        job.seconds = ended - started
        with self._lock:
            del self._running[number]
            self._moved_at = ended
            is_more = self._waiting.is_held_back(job)
        if is_more:
            # The next job's token may have been used by a thread that was not allowed to take it.
            self._tokens.put(None)
        if job.rows:
            job.runner.run_s.learn(job.rows, ended - started)
            if not job.is_spare:
                job.runner.turn_s.learn(job.rows, ended - max(free_at, job.queued_at))
        self._hand_back([job])
        return ended

    def _hand_back(self, jobs: list[Job[Any]]) -> None:
        """Hand results to the loop, which is woken once for all pending ones."""
        loop = jobs[0].loop
        assert loop is not None, "it was put in by a loop"
        for job in jobs:
            job.work = _is_done
        with self._lock:
            self._ended.extend(jobs)
            if self._woken is loop:
                return
            self._woken = loop
        try:
            loop.call_soon_threadsafe(self._take_back)
        except RuntimeError:
            # The loop is closed: nothing waits any more.
            with self._lock:
                self._ended.clear()
                self._woken = None

    # Back in the loop

    def _take_back(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, deque()
            self._woken = None
        try:
            while ended:
                job = ended.popleft()
                if job.is_answered or job.claim():
                    self._tell(job, job.outcome)
        finally:
            # If one callback fails, the others are still called.
            if ended:
                self._hand_back(list(ended))

    def _tell(self, job: Job[Any], outcome: object) -> None:
        waited_s = job.started - job.queued_at
        if job.started and job.is_run:
            self._metrics.stages["queue"].observe(waited_s)
            if job.rows:
                self._metrics.stages["run"].observe(job.seconds)
                self._metrics.run_rows.observe(job.rows)
            if job.is_partial:
                self._metrics.partial.inc()
        # `work` may reference its job: this cycle would keep a retired model in memory.
        job.work, job.outcome = _is_done, None
        told, job.told = job.told, None
        assert told is not None, "a job is answered once"
        if isinstance(outcome, BaseException):
            self._count_shed(outcome)
            told(outcome)
        else:
            told(Done(outcome, waited_s, job.seconds, job.is_partial))

    def _count_shed(self, error: BaseException) -> None:
        if isinstance(error, ClientGone):
            self.admission.shed("client_gone")
        elif isinstance(error, DeadlineExceeded):
            self.admission.shed("deadline")


def _shorten(runner: Runner, cut: Cut, count: int) -> Callable[[], Scores]:
    return partial(runner.runtime.run, cut(count))


def _is_done() -> NoReturn:
    raise AssertionError("a job is done once")


def settle(future: "asyncio.Future[_Result]", outcome: _Result | BaseException) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, asyncio.CancelledError):
        future.cancel(_CLOSED)
    elif isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
