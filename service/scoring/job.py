"""Jobs of scoring threads: the work, until when somebody waits for it, what can share a model run, and how long runs
took of late; and the order of those that wait.

Knows how many threads there are, and does not know them.
"""

import asyncio
import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded
from service.runtimes.choice import Together
from service.runtimes.runtime import Runtime, Scores

_Result = TypeVar("_Result")
# After a request with an ordinary deadline, a thread is kept from those with longer ones for so long.
_RESERVED_S = 1.0
# What is expected is exceeded by every other: of those that begin, all but few are to end in time.
SURE = 0.7
# Of what a run takes, the part that is supposed not to depend on the number of candidates, until it is learned.
_FIXED = 0.3
# The first runs of a size are slower than those that follow.
_ENOUGH, _FADES, _FADES_SOON = 5, 0.98, 0.7


class Runner:
    """What the queue runs: one model's runtime, and what it learned of its times, which are no other model's."""

    __slots__ = ("run_s", "runtime", "together", "turn_s")

    def __init__(self, runtime: Runtime, together: Together | None = None) -> None:
        self.runtime = runtime
        self.together = together
        """What runs several requests at once, where that pays."""
        self.run_s = LearnedSeconds(share=0.25, most=4.0, least_s=0.02)
        """How long one run takes."""
        self.turn_s = LearnedSeconds(share=0.1, most=4.0)
        """How long until its thread can begin the next: with what other threads and processes take meanwhile."""


class LearnedSeconds:
    """How long something takes of late, by the length of the number of candidates in bits.

    The newest has this share; it counts as at most so many times what was known, or as `least_s` if that is more: the
    machine may have stood still. Scoring threads and the event loop share it.
    """

    __slots__ = ("_least_s", "_lock", "_most", "_seconds", "_share", "_times")

    def __init__(self, share: float, most: float, least_s: float = 0.0) -> None:
        self._share, self._most, self._least_s = share, most, least_s
        self._seconds: dict[int, float] = {}
        self._times: Tally[int] = Tally()
        self._lock = threading.Lock()

    def of(self, rows: int, unknown: float) -> float:
        """Seconds for so many candidates."""
        # A single look at a dict needs no lock.
        return self._seconds.get(rows.bit_length(), unknown)

    def fitting(self, rows: int, seconds: float) -> int:
        """How many of so many candidates can be expected to be done in that time: all of them where it is not known,
        else three at least, or 0.
        """
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size)
            if known is None or known <= seconds:
                return rows
            # What was learned may be of another time: the more often it is believed, the less it counts.
            self._seconds[size] = known * (_FADES if self._times[size] >= _ENOUGH else _FADES_SOON)
            for bits in range(size - 1, 1, -1):
                fewer = (1 << bits) - 1
                if self._seconds.get(bits, known * (_FIXED + (1 - _FIXED) * fewer / rows)) <= seconds:
                    return fewer
            return 0

    def learn(self, rows: int, seconds: float) -> None:
        """So long it took."""
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size, seconds)
            self._seconds[size] = known + (min(seconds, max(self._most * known, self._least_s)) - known) * self._share
            self._times[size] += 1


@dataclass(frozen=True, slots=True)
class Done(Generic[_Result]):
    """The result of a job, how long it waited and took, and how many requests shared the run.

    If there was too little time for all candidates, it is the result of `shorten`.
    """

    result: _Result
    queue_s: float
    run_s: float
    together: int = 1
    is_partial: bool = False


Ran = Done[Scores]
Told = Callable[[Done[_Result] | BaseException], None]
"""Called in the event loop with the outcome of a job: its result; the error of its work; or ClientGone,
DeadlineExceeded or CancelledError if nobody waited for it any more."""


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
    tensors: Tensors | None = None
    """Of a job that is one run and nothing else, and may share it with others. Any other sets `rows` to the number of
    candidates that it scored, and observes its stages itself."""
    shorten: "Callable[[int], tuple[Callable[[], _Result], Tensors | None]] | None" = None
    """`work` and `tensors` of the first so many candidates and an unknown one, for when there is no time for all."""
    is_spare: bool = False
    """Whether it runs on spare capacity only: after every other job, and never in all threads at once."""
    is_patient: bool = False
    """Whether its deadline is longer than the service's own; then it leaves a thread to those that are in a hurry."""
    queued_at: float = 0.0
    due: float = 0.0
    expected_s: float = 0.0
    is_partial: bool = False
    is_alone: bool = False
    """Whether it may not share a run, because a shared run failed."""
    is_answered: bool = False
    """Whether `work` itself has sent the answer, having claimed it."""
    told: Told[_Result] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    outcome: Any = None
    started: float = 0.0
    """When its run began; 0 if it never did."""
    seconds: float = 0.0
    together: int = 1
    run_rows: int = 0
    """Candidates in the run; set for the first job of a run only, which is the one to observe it."""
    _claim: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take the right to answer, which is given once: a job whose time is over is answered while it still runs."""
        return self._claim.acquire(blocking=False)

    @property
    def is_claimed(self) -> bool:
        """Whether it is answered, or nobody waits for an answer."""
        return self._claim.locked()


def check(deadline: float, is_gone: Callable[[], bool]) -> None:
    """Raise ClientGone or DeadlineExceeded if nobody waits any more."""
    if is_gone():
        raise ClientGone
    if time.perf_counter() > deadline:
        raise DeadlineExceeded("deadline exceeded before a scoring thread was free")


def prepare(job: Job[Any]) -> Exception | None:
    """Make a job ready to run, for fewer candidates if there is no time for all; or return why it need not run."""
    try:
        check(job.deadline, job.is_gone)
        if job.shorten is None:
            return None
        rows = job.runner.run_s.fitting(job.rows, SURE * (job.deadline - time.perf_counter()))
        if not rows:
            raise DeadlineExceeded("deadline exceeded: too little time left for one model run")
        if rows != job.rows:
            job.work, job.tensors = job.shorten(rows - 1)
            job.rows, job.is_partial, job.shorten = rows, True, None
    except Exception as error:
        return error
    return None


def go_together(jobs: Sequence[Job[Any]], job: Job[Any]) -> bool:
    """Whether a job can share the run of others."""
    first = jobs[0]
    together = first.runner.together
    if together is None or job.runner is not first.runner or job.tensors is None or first.tensors is None:
        return False
    if job.is_alone or first.is_alone:
        return False
    return len(jobs) < together.most and job.rows + sum(one.rows for one in jobs) <= together.most_rows


def work_of(jobs: Sequence[Job[Any]]) -> list[Any]:
    """Do the work of jobs that go together, and return the result of each."""
    if len(jobs) == 1:
        return [jobs[0].work()]
    together = jobs[0].runner.together
    assert together is not None, "several go together where they can"
    return list(together.run([job.tensors for job in jobs if job.tensors is not None]))


class Waiting:
    """Jobs that no thread has begun. Not for several threads at once."""

    def __init__(self, threads: int) -> None:
        self._prompt: list[tuple[float, int, Job[Any]]] = []
        """A heap by due time, then arrival; as is that of jobs with long deadlines."""
        self._patient: list[tuple[float, int, Job[Any]]] = []
        self._spare: deque[Job[Any]] = deque()
        self._numbers = count()
        self._threads = threads
        self._most = max(1, threads - 1)
        """Threads that jobs may take that have to leave one to others."""
        self._prompt_at = 0.0

    def __len__(self) -> int:
        return len(self._prompt) + len(self._patient) + len(self._spare)

    def put(self, job: Job[Any]) -> None:
        """Add a job that has just come."""
        if job.is_spare:
            self._spare.append(job)
        elif job.is_patient:
            heappush(self._patient, (job.due, next(self._numbers), job))
        else:
            heappush(self._prompt, (job.due, next(self._numbers), job))
            self._prompt_at = job.queued_at

    def put_back(self, jobs: Sequence[Job[Any]]) -> None:
        """Add jobs that go before all others."""
        for job in jobs:
            heappush(self._prompt, (0.0, next(self._numbers), job))

    def pop(self, jobs: Sequence[Job[Any]], at_hand: Collection[Job[Any]]) -> Job[Any] | None:
        """The job that is due first, if it goes with those already taken; `at_hand`: one of each run."""
        heap = self._prompt
        if self._patient and not (heap and heap[0] < self._patient[0]) and not self._is_reserved(at_hand):
            heap = self._patient
        if heap:
            return None if jobs and not go_together(jobs, heap[0][2]) else heappop(heap)[2]
        if jobs or not self._spare or sum(job.is_spare for job in at_hand) >= self._most:
            return None
        return self._spare.popleft()

    def is_held_back(self, ended: Job[Any]) -> bool:
        """Whether there are jobs like one that ended, which may have been kept from a free thread until now."""
        return bool((ended.is_spare and self._spare) or (ended.is_patient and self._patient))

    def take_late(self, now: float) -> list[Job[Any]]:
        """Remove the jobs whose deadline is over, and return them."""
        late = [job for job in self._all() if job.deadline < now]
        if late:
            for heap in (self._prompt, self._patient):
                heap[:] = [entry for entry in heap if entry[2].deadline >= now]
                heapify(heap)
            self._spare = deque(job for job in self._spare if job.deadline >= now)
        return late

    def take_all(self) -> list[Job[Any]]:
        """Remove all jobs, and return them."""
        jobs = self._all()
        for one in (self._prompt, self._patient, self._spare):
            one.clear()
        return jobs

    def _all(self) -> list[Job[Any]]:
        return [*(job for heap in (self._prompt, self._patient) for _, _, job in heap), *self._spare]

    def _is_reserved(self, at_hand: Collection[Job[Any]]) -> bool:
        """Whether the last free thread is not for jobs with long deadlines, whose runs may take as long."""
        if self._threads == 1 or time.perf_counter() - self._prompt_at > _RESERVED_S:
            return False
        return sum(job.is_patient for job in at_hand) >= self._most
