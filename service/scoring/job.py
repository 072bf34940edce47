"""What a scoring thread does for one request: the work, until when it is wanted, and what goes together in one run.

Knows neither threads nor queues.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded
from service.models.runner import SURE, Runner
from service.runtimes.runtime import Scores

_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class Job(Generic[_Result]):
    """What one scoring thread is to do for one request, with one run of the model in it.

    `work` is called in the thread. `rows` is the number of candidates, `deadline` a time of `time.perf_counter`.
    """

    work: Callable[[], _Result]
    runner: Runner
    rows: int
    deadline: float
    is_gone: Callable[[], bool]
    """Whether the client has left; called in the thread too."""
    tensors: Tensors | None = None
    """Of a job that is nothing but a run, and may go together with others. Any other sets `rows` to what it scored, 0
    for nothing, and tells of its stages itself."""
    shorten: "Callable[[int], tuple[Callable[[], _Result], Tensors | None]] | None" = None
    """`work` and `tensors` of the first so many candidates and an unknown one, where there is not the time for all."""
    queued_at: float = 0.0
    is_cancelled: bool = False
    is_partial: bool = False
    is_alone: bool = False
    """Whether it may not go with others, because a run of several failed."""


@dataclass(frozen=True, slots=True)
class Done(Generic[_Result]):
    """What a job gave, how long it waited and took, and how many requests were scored in the same run.

    Where the time did not suffice for all candidates it is the result of `shorten`.
    """

    result: _Result
    queue_s: float
    run_s: float
    together: int = 1
    is_partial: bool = False


Ran = Done[Scores]
Told = Callable[[Done[_Result] | BaseException], None]
"""Is told in the loop what became of a job: what it gave; or what its work raised; or ClientGone, DeadlineExceeded or
CancelledError where it never ran."""


def check(deadline: float, is_gone: Callable[[], bool]) -> None:
    """Raises ClientGone or DeadlineExceeded when nobody waits any more."""
    if is_gone():
        raise ClientGone
    if time.perf_counter() > deadline:
        raise DeadlineExceeded("the time that the request may take was over before its turn came")


def prepare(job: Job[object]) -> Exception | None:
    """Makes a job ready whose turn has come, for fewer candidates where there is not the time for all; or says why it
    is not wanted any more."""
    try:
        check(job.deadline, job.is_gone)
        _fit(job)
    except Exception as error:
        return error
    return None


def go_together(jobs: Sequence[Job[object]], job: Job[object]) -> bool:
    """Whether a request can be scored in one run with others."""
    first = jobs[0]
    together = first.runner.together
    if together is None or job.runner is not first.runner or job.tensors is None or first.tensors is None:
        return False
    if job.is_alone or first.is_alone:
        return False
    return len(jobs) < together.most and job.rows + sum(one.rows for one in jobs) <= together.most_rows


def work_of(jobs: Sequence[Job[object]]) -> list[object]:
    """Does the work of jobs that go together, and gives the result of each."""
    if len(jobs) == 1:
        return [jobs[0].work()]
    together = jobs[0].runner.together
    assert together is not None, "several go together where they can"
    return list(together.run([job.tensors for job in jobs if job.tensors is not None]))


def _fit(job: Job[object]) -> None:
    """Leaves candidates out where there is not the time for all."""
    if job.shorten is None:
        return
    rows = job.runner.run_s.fitting(job.rows, SURE * (job.deadline - time.perf_counter()))
    if rows == job.rows:
        return
    if not rows:
        raise DeadlineExceeded("what was left of the time that the request may take did not suffice for a run")
    job.work, job.tensors = job.shorten(rows - 1)
    job.rows, job.is_partial, job.shorten = rows, True, None
