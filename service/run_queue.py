"""The runs of all models: one at a time, in the order of arrival, each begun when the one before has ended.

Where a model can score several requests in one run, those that wait when it begins go together; none waits for others
to come. What nobody waits for any more never runs. Knows tensors and time. Knows neither requests nor rows nor HTTP.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from msd.contract.assemble import Tensors
from service.admission import SURE, Admission
from service.errors import ClientGone, DeadlineExceeded
from service.metrics import Metrics
from service.runner import Runner
from service.runtimes.runtime import Scores

# So long a run may keep the loop from answering health checks; a longer one goes to a thread, which costs a hand-over
# there and one back.
_SHORT_S = 0.005

Cut = Callable[[int], Tensors]
"""The tensors of the first so many candidates and, behind them, of one of which nothing is known."""


class Ran(NamedTuple):
    """Scores [N] by head, how long the run waited and took, and how many requests it was of.

    Where the time did not suffice for all candidates the scores are [k + 1], of the first k and of an unknown one.
    """

    scores: Scores
    queue_s: float
    run_s: float
    together: int = 1
    is_partial: bool = False


@dataclass(slots=True, eq=False)
class _Work:
    runner: Runner
    tensors: Tensors
    rows: int
    deadline: float
    is_gone: Callable[[], bool]
    cut: Cut | None
    queued_at: float
    waited_s: float
    done: asyncio.Future[Ran]
    is_partial: bool = False
    is_alone: bool = False
    """Whether it may not go with others, for a run of several failed."""


class RunQueue:
    """Runs for one event loop. Times are those of `time.perf_counter`."""

    def __init__(self, metrics: Metrics, admission: Admission) -> None:
        self._metrics = metrics
        self._admission = admission
        self._waiting: deque[_Work] = deque()
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._ended_at = 0.0
        self.on_idle: Callable[[], None] = _nothing
        """Called when no run is under way any more, and none waits."""

    @property
    def is_busy(self) -> bool:
        """Whether a run is under way or about to begin, so that another would have to wait."""
        return self._is_busy

    @property
    def is_idle(self) -> bool:
        """Whether nothing is taken on that has not been scored."""
        return self._admission.is_empty

    def check(self, deadline: float, is_gone: Callable[[], bool]) -> None:
        """Raises ClientGone or DeadlineExceeded when no work is to be done for a request any more."""
        if is_gone():
            self._admission.shed("client_gone")
            raise ClientGone
        if time.perf_counter() > deadline:
            self._admission.shed("deadline")
            raise DeadlineExceeded("the time that the request may take was over before its turn came")

    async def run(
        self,
        runner: Runner,
        tensors: Tensors,
        rows: int,
        deadline: float,
        is_gone: Callable[[], bool],
        cut: Cut | None = None,
        waited_s: float = 0.0,
    ) -> Ran:
        """One run, when its turn has come, unless `check` then says that it is not wanted any more.

        With `cut` it is one of fewer candidates when all would take too long. Raises DeadlineExceeded when even a few
        would. `waited_s`: how long the request had waited before.
        """
        loop = asyncio.get_running_loop()
        work = _Work(runner, tensors, rows, deadline, is_gone, cut, time.perf_counter(), waited_s, loop.create_future())
        self._waiting.append(work)
        if not self._is_busy:
            self._is_busy = True
            # Not at once: the loop may have other requests at hand, which are to be admitted or refused first.
            loop.call_soon(self._begin)
        return await work.done

    def close(self) -> None:
        """Lets the run at hand end, and begins no other."""
        for work in self._waiting:
            work.done.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Begins the next run that is wanted."""
        works: list[_Work] = []
        while self._waiting and (not works or _goes_with(works, self._waiting[0])):
            work = self._waiting.popleft()
            if self._is_wanted(work):
                works.append(work)
        if works:
            self._run(works)
        else:
            self._is_busy = False
            self.on_idle()

    def _is_wanted(self, work: _Work) -> bool:
        if work.done.done():
            return False
        try:
            self.check(work.deadline, work.is_gone)
            self._fit(work)
        except (ClientGone, DeadlineExceeded) as error:
            work.done.set_exception(error)
            return False
        return True

    def _fit(self, work: _Work) -> None:
        """Leaves candidates out where there is not the time for all."""
        if work.cut is None:
            return
        rows = work.runner.run_s.fitting(work.rows, SURE * (work.deadline - time.perf_counter()))
        if rows == work.rows:
            return
        if not rows:
            self._admission.shed("deadline")
            raise DeadlineExceeded("what was left of the time that the request may take did not suffice for a run")
        self._metrics.partial.inc()
        work.tensors, work.rows, work.is_partial = work.cut(rows - 1), rows, True

    def _run(self, works: list[_Work]) -> None:
        started = time.perf_counter()
        for work in works:
            self._metrics.stages["queue"].observe(work.waited_s + started - work.queued_at)
        rows = sum(work.rows for work in works)
        if works[0].runner.run_s.of(rows, math.inf) > _SHORT_S:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, _scores, works)
            running.add_done_callback(lambda ended: self._end(works, rows, started, _result_of(ended)))
            return
        try:
            result: list[Scores] | BaseException = _scores(works)
        except Exception as error:
            result = error
        self._end(works, rows, started, result)

    def _end(self, works: list[_Work], rows: int, started: float, result: list[Scores] | BaseException) -> None:
        ended = time.perf_counter()
        seconds = ended - started
        runner, share_s = works[0].runner, (ended - max(self._ended_at, works[0].queued_at)) / len(works)
        self._metrics.stages["run"].observe(seconds)
        self._metrics.run_rows.observe(rows)
        runner.run_s.learn(rows, seconds)
        for work in works:
            runner.turn_s.learn(work.rows, share_s)
        self._ended_at = ended
        if isinstance(result, Exception) and len(works) > 1:
            # One of them is at fault, or what all need together: alone, each finds out.
            for work in reversed(works):
                work.is_alone = True
                self._waiting.appendleft(work)
        else:
            _tell(works, started, seconds, result)
        loop = asyncio.get_running_loop()
        # In the round after next of the loop: in the next one this request's reply is written, and sent at its end.
        loop.call_soon(loop.call_soon, self._begin)


def _goes_with(works: list[_Work], work: _Work) -> bool:
    """Whether a request can be scored in one run with others."""
    runner, together = works[0].runner, works[0].runner.together
    if together is None or work.runner is not runner or work.is_alone or works[0].is_alone:
        return False
    return len(works) < together.most and work.rows + sum(one.rows for one in works) <= together.most_rows


def _scores(works: list[_Work]) -> list[Scores]:
    """The scores of each."""
    runner = works[0].runner
    if len(works) == 1:
        return [runner.runtime.run(works[0].tensors)]
    assert runner.together is not None, "several go together where they can"
    return runner.together.run([work.tensors for work in works])


def _tell(works: list[_Work], started: float, seconds: float, result: list[Scores] | BaseException) -> None:
    """Gives each its scores, or all what they failed with."""
    for place, work in enumerate(works):
        if work.done.done():
            continue
        if isinstance(result, BaseException):
            work.done.set_exception(result)
        else:
            work.done.set_result(
                Ran(result[place], work.waited_s + started - work.queued_at, seconds, len(works), work.is_partial)
            )


def _nothing() -> None:
    return None


def _result_of(ended: "asyncio.Future[list[Scores]]") -> list[Scores] | BaseException:
    if ended.cancelled():
        return asyncio.CancelledError()
    return ended.exception() or ended.result()
