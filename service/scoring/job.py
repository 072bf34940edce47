"""Jobs of scoring threads: the work, its deadline, learned run times; and the order of waiting jobs.

Knows the number of threads, not the threads.
"""

import asyncio
import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from service.errors import ClientGone, DeadlineExceeded
from service.runtimes.runtime import Runtime, Scores
from service.scoring.admission import Load

_Result = TypeVar("_Result")
# Seconds after a request with a normal deadline for which one thread is kept from jobs with longer ones.
_RESERVED_S = 1.0
# The share of the remaining time that a run may be planned for. Half of all runs exceed their estimate: with this
# margin, nearly all end in time.
_PLANNED = 0.7
# The share of a run's time that is assumed not to depend on the number of candidates, until it is learned.
_FIXED = 0.3
# The first runs of a size are slower than later ones.
_ENOUGH, _FADES, _FADES_SOON = 5, 0.98, 0.7


class Runner:
    """One model's runtime, and its learned run times."""

    __slots__ = ("run_s", "runtime", "turn_s")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.run_s = LearnedSeconds(share=0.25, most=4.0, least_s=0.02)
        """Seconds of one run."""
        self.turn_s = LearnedSeconds(share=0.1, most=4.0)
        """Seconds until its thread can begin the next job, including time taken by other threads and processes."""

    def load_of(self, rows: int) -> Load:
        """Return what scoring that many candidates is expected to take."""
        return Load(rows, self.turn_s.of(rows, 0.0))


class LearnedSeconds:
    """Recent durations, by the bit length of the number of candidates.

    A new duration is weighted by a fixed share, and capped at a multiple of the known one, or at `least_s` if that is
    more: the machine may have stalled. Scoring threads and the event loop share it.
    """

    __slots__ = ("_least_s", "_lock", "_most", "_seconds", "_share", "_times")

    def __init__(self, share: float, most: float, least_s: float = 0.0) -> None:
        self._share, self._most, self._least_s = share, most, least_s
        self._seconds: dict[int, float] = {}
        self._times: Tally[int] = Tally()
        self._lock = threading.Lock()

    def of(self, rows: int, unknown: float) -> float:
        # A single dict access needs no lock.
        return self._seconds.get(rows.bit_length(), unknown)

    def fitting(self, rows: int, seconds: float) -> int:
        """Return how many candidates are expected to be done in that time: all if it is unknown, otherwise at least
        three, or 0."""
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size)
            if known is None or known <= seconds:
                return rows
            # A learned time may be outdated: it fades each time that it is used to shorten a run.
            self._seconds[size] = known * (_FADES if self._times[size] >= _ENOUGH else _FADES_SOON)
            for bits in range(size - 1, 1, -1):
                fewer = (1 << bits) - 1
                if self._seconds.get(bits, known * (_FIXED + (1 - _FIXED) * fewer / rows)) <= seconds:
                    return fewer
            return 0

    def learn(self, rows: int, seconds: float) -> None:
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size, seconds)
            self._seconds[size] = known + (min(seconds, max(self._most * known, self._least_s)) - known) * self._share
            self._times[size] += 1


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


@dataclass(slots=True, eq=False)
class Job(Generic[_Result]):
    """Work for one scoring thread with one model run in it, for one request.

    `work` is called in the thread. `rows` is the number of candidates, `deadline` a time of `time.perf_counter`.
    """

    work: Callable[[], _Result]
    runner: Runner
    rows: int
    deadline: float
    is_gone: Callable[[], bool]
    """Whether the client has left; called in the thread too."""
    is_run: bool = False
    """Whether it is exactly one run, whose stages the queue observes. Any other job sets `rows` to the number of
    candidates that it scored, and observes its stages itself."""
    shorten: Shorten[_Result] | None = None
    """Used if there is no time for all candidates."""
    is_spare: bool = False
    """Whether it runs on spare capacity only: after every other job, and never in all threads at once."""
    is_patient: bool = False
    """Whether its deadline is longer than the service's default; then it leaves one thread to others."""
    queued_at: float = 0.0
    due: float = 0.0
    expected_s: float = 0.0
    is_partial: bool = False
    is_answered: bool = False
    """Whether `work` has sent the answer itself, after a claim."""
    told: Told[_Result] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    outcome: Any = None
    started: float = 0.0
    """When its run began; 0 if it has not."""
    seconds: float = 0.0
    _claim: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take the right to answer, which is given once: a job past its deadline may be answered while it still
        runs."""
        return self._claim.acquire(blocking=False)

    @property
    def is_claimed(self) -> bool:
        """Return whether it is answered or abandoned."""
        return self._claim.locked()


def check(deadline: float, is_gone: Callable[[], bool]) -> None:
    """Raise ClientGone or DeadlineExceeded if the client has left or the deadline has passed."""
    if is_gone():
        raise ClientGone
    if time.perf_counter() > deadline:
        raise DeadlineExceeded("deadline exceeded before a scoring thread was free")


def seconds_for_run(deadline: float) -> float:
    """Return how long a run that starts now is allowed to be expected to take."""
    return _PLANNED * (deadline - time.perf_counter())


def fit_deadline(job: Job[Any]) -> Exception | None:
    """Fit a job to its deadline: fewer candidates if there is no time for all. Return an error if it should not
    run."""
    try:
        check(job.deadline, job.is_gone)
        if job.shorten is None:
            return None
        rows = job.runner.run_s.fitting(job.rows, seconds_for_run(job.deadline))
        if not rows:
            raise DeadlineExceeded("deadline exceeded: too little time left for one model run")
        if rows != job.rows:
            job.work = job.shorten(rows - 1)
            job.rows, job.is_partial, job.shorten = rows, True, None
    except Exception as error:
        return error
    return None


class Waiting:
    """Waiting jobs. Not thread-safe."""

    def __init__(self, threads: int) -> None:
        self._prompt: list[tuple[float, int, Job[Any]]] = []
        """Heap by due time, then arrival; jobs with long deadlines have another."""
        self._patient: list[tuple[float, int, Job[Any]]] = []
        self._spare: deque[Job[Any]] = deque()
        self._numbers = count()
        self._threads = threads
        self._most = max(1, threads - 1)
        """Maximum threads for jobs that must leave one to others."""
        self._prompt_at = 0.0

    def __len__(self) -> int:
        return len(self._prompt) + len(self._patient) + len(self._spare)

    def put(self, job: Job[Any]) -> None:
        if job.is_spare:
            self._spare.append(job)
        elif job.is_patient:
            heappush(self._patient, (job.due, next(self._numbers), job))
        else:
            heappush(self._prompt, (job.due, next(self._numbers), job))
            self._prompt_at = job.queued_at

    def pop(self, running: Collection[Job[Any]]) -> Job[Any] | None:
        """Remove and return the job that is due first; `running`: those that run."""
        heap = self._prompt
        if self._patient and not (heap and heap[0] < self._patient[0]) and not self._is_reserved(running):
            heap = self._patient
        if heap:
            return heappop(heap)[2]
        if not self._spare or sum(job.is_spare for job in running) >= self._most:
            return None
        return self._spare.popleft()

    def is_held_back(self, ended: Job[Any]) -> bool:
        """Return whether jobs of the ended one's kind wait, which a free thread may have skipped."""
        return bool((ended.is_spare and self._spare) or (ended.is_patient and self._patient))

    def take_late(self, now: float) -> list[Job[Any]]:
        """Remove and return the jobs past their deadline."""
        late = [job for job in self._all() if job.deadline < now]
        if late:
            for heap in (self._prompt, self._patient):
                heap[:] = [entry for entry in heap if entry[2].deadline >= now]
                heapify(heap)
            self._spare = deque(job for job in self._spare if job.deadline >= now)
        return late

    def take_all(self) -> list[Job[Any]]:
        jobs = self._all()
        for one in (self._prompt, self._patient, self._spare):
            one.clear()
        return jobs

    def _all(self) -> list[Job[Any]]:
        return [*(job for heap in (self._prompt, self._patient) for _, _, job in heap), *self._spare]

    def _is_reserved(self, running: Collection[Job[Any]]) -> bool:
        """Return whether the last free thread is reserved, because jobs with long deadlines may have long runs."""
        if self._threads == 1 or time.perf_counter() - self._prompt_at > _RESERVED_S:
            return False
        return sum(job.is_patient for job in running) >= self._most
