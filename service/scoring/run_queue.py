"""The one queue of the service: what scoring threads do for requests, in the order of arrival.

The event loop puts jobs in and gets results back; a free thread takes the oldest job that is still wanted. Where a
model can score several requests in one run, those that wait when it begins go together. Knows neither rows nor HTTP.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded
from service.models.runner import Runner
from service.runtimes.runtime import Scores
from service.scoring.admission import Admission
from service.scoring.job import Done, Job, Ran, Told, check, go_together, prepare, work_of
from service.telemetry.metrics import Metrics

Cut = Callable[[int], Tensors]
"""The tensors of the first so many candidates and, behind them, of one of which nothing is known."""
_Result = TypeVar("_Result")
_CLOSED = "the service ends"


@dataclass(frozen=True, slots=True)
class _Ended:
    """A job on its way back to the loop: what it gave, or what it failed with. `started` is 0 if it never ran."""

    job: Job[Any]
    told: Told[Any]
    loop: asyncio.AbstractEventLoop
    outcome: object
    started: float = 0.0
    seconds: float = 0.0
    together: int = 1
    run_rows: int = 0
    """Of all candidates in the run, told once a run: by the first of its jobs."""


_Entry = tuple[Job[Any], Told[Any], asyncio.AbstractEventLoop]


class RunQueue:
    """`threads` scoring threads behind one queue. All methods are for the event loop's thread."""

    def __init__(self, metrics: Metrics, admission: Admission, threads: int = 1) -> None:
        self._metrics = metrics
        self._admission = admission
        self._waiting: deque[_Entry] = deque()
        self._ended: deque[_Ended] = deque()
        self._lock = threading.Lock()
        """Of both deques and what follows; held for moments, never while something runs."""
        self._is_closed = False
        self._woken: asyncio.AbstractEventLoop | None = None
        # One for each job that was put in: an idle thread waits here, where that costs least.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._count = threads
        self._threads: list[threading.Thread] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is taken on that has not been scored."""
        return self._admission.is_empty

    def check(self, deadline: float, is_gone: Callable[[], bool]) -> None:
        """Raises ClientGone or DeadlineExceeded when no work is to be done for a request any more."""
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
    ) -> Ran:
        """One run, when its turn has come; of fewer candidates with `cut` when all would take too long.

        Raises what `do` does.
        """
        run = runner.runtime.run

        def shorten(count: int) -> tuple[Callable[[], Scores], Tensors]:
            assert cut is not None, "who cannot be cut is not shortened"
            fewer = cut(count)
            return partial(run, fewer), fewer

        work, shortened = partial(run, tensors), None if cut is None else shorten
        return await self.do(Job(work, runner, rows, deadline, is_gone, tensors, shortened))

    async def do(self, job: Job[_Result]) -> Done[_Result]:
        """Has a scoring thread do a job, unless it is not wanted any more when its turn comes.

        Raises ClientGone or DeadlineExceeded then, and what the work raises.
        """
        future: asyncio.Future[Done[_Result]] = asyncio.get_running_loop().create_future()
        self.put(job, partial(_settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            job.is_cancelled = True
            raise

    def put(self, job: Job[_Result], told: Told[_Result]) -> None:
        """As `do`, for who is told instead of waiting. Raises CancelledError once the queue is closed."""
        job.queued_at = time.perf_counter()
        with self._lock:
            if self._is_closed:
                raise asyncio.CancelledError(_CLOSED)
            self._waiting.append((job, told, asyncio.get_running_loop()))
        if not self._threads:
            self._start()
        self._tokens.put(None)

    def close(self) -> None:
        """Lets the runs at hand end, and begins no others."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, deque()
        for _, told, _ in waiting:
            told(asyncio.CancelledError(_CLOSED))
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        # Daemons: a run that hangs is not to keep the process from ending.
        self._threads = [
            threading.Thread(target=self._score, name=f"scoring-{number}", daemon=True)
            for number in range(1, self._count + 1)
        ]
        for thread in self._threads:
            thread.start()

    # In the scoring threads

    def _score(self) -> None:
        free_at = 0.0
        while True:
            self._tokens.get()
            if self._is_closed:
                return
            free_at = self._next(free_at)

    def _next(self, free_at: float) -> float:
        """Does the oldest job, if there is one. What it held is let go of before another is waited for."""
        entries = self._take()
        return self._run(entries, free_at) if entries else free_at

    def _take(self) -> list[_Entry]:
        """The oldest wanted job, and those that go with it. Hands back those that are not wanted."""
        entries: list[_Entry] = []
        while True:
            with self._lock:
                if not self._waiting or (entries and not go_together(_jobs(entries), self._waiting[0][0])):
                    return entries
                entry = self._waiting.popleft()
            if entry[0].is_cancelled:
                continue
            refusal = prepare(entry[0])
            if refusal is None:
                entries.append(entry)
            else:
                self._hand_back([_Ended(*entry, refusal)])

    def _run(self, entries: list[_Entry], free_at: float) -> float:
        """Runs what goes together; when the thread was free again."""
        started = time.perf_counter()
        try:
            outcomes = work_of(_jobs(entries))
        except Exception as error:
            outcomes = [error] * len(entries)
        ended = time.perf_counter()
        jobs = _jobs(entries)
        first, rows = jobs[0], sum(job.rows for job in jobs)
        if rows:
            first.runner.run_s.learn(rows, ended - started)
            for job in jobs:
                first.runner.turn_s.learn(job.rows, (ended - max(free_at, first.queued_at)) / len(jobs))
        if isinstance(outcomes[0], Exception) and len(entries) > 1:
            # One of them is at fault, or what all need together: alone, each finds out.
            self._put_back(entries)
        else:
            seconds, together = ended - started, len(entries)
            self._hand_back(
                [
                    _Ended(*entry, outcome, started, seconds, together, 0 if place else rows)
                    for place, (entry, outcome) in enumerate(zip(entries, outcomes, strict=True))
                ]
            )
        return ended

    def _put_back(self, entries: list[_Entry]) -> None:
        for job in _jobs(entries):
            job.is_alone = True
        with self._lock:
            if not self._is_closed:
                self._waiting.extendleft(reversed(entries))
                for _ in entries:
                    self._tokens.put(None)
                return
        self._hand_back([_Ended(*entry, asyncio.CancelledError(_CLOSED)) for entry in entries])

    def _hand_back(self, ended: list[_Ended]) -> None:
        """Gives results to the loop, which is woken once for all that it has not seen yet."""
        loop = ended[0].loop
        for one in ended:
            # It may hold its job, which holds it: with them a model that serves no more would stay for long.
            one.job.work = _is_done
        with self._lock:
            self._ended.extend(ended)
            if self._woken is loop:
                return
            self._woken = loop
        try:
            loop.call_soon_threadsafe(self._take_back)
        except RuntimeError:
            # The loop is closed, so nobody waits any more.
            with self._lock:
                self._ended.clear()
                self._woken = None

    # In the loop again

    def _take_back(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, deque()
            self._woken = None
        try:
            while ended:
                self._tell(ended.popleft())
        finally:
            # Where somebody fails at being told, the others are told all the same.
            if ended:
                self._hand_back(list(ended))

    def _tell(self, ended: _Ended) -> None:
        job, outcome = ended.job, ended.outcome
        waited_s = ended.started - job.queued_at
        if ended.started and job.tensors is not None:
            self._metrics.stages["queue"].observe(waited_s)
            if ended.run_rows:
                self._metrics.stages["run"].observe(ended.seconds)
                self._metrics.run_rows.observe(ended.run_rows)
            if job.is_partial:
                self._metrics.partial.inc()
        if isinstance(outcome, BaseException):
            if not job.is_cancelled:
                self._count_shed(outcome)
            ended.told(outcome)
        else:
            ended.told(Done(outcome, waited_s, ended.seconds, ended.together, job.is_partial))

    def _count_shed(self, error: BaseException) -> None:
        if isinstance(error, ClientGone):
            self._admission.shed("client_gone")
        elif isinstance(error, DeadlineExceeded):
            self._admission.shed("deadline")


def _is_done() -> NoReturn:
    raise AssertionError("a job is done once")


def _settle(future: "asyncio.Future[Done[_Result]]", outcome: Done[_Result] | BaseException) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, asyncio.CancelledError):
        future.cancel(_CLOSED)
    elif isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _jobs(entries: list[_Entry]) -> list[Job[object]]:
    return [job for job, _, _ in entries]
