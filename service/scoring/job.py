"""One job of a scoring thread: the work, until when somebody waits for it, and what can share a model run with it.

Knows neither threads nor queues.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded
from service.runtimes.runner import SURE, Runner
from service.runtimes.runtime import Scores

_Result = TypeVar("_Result")


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
