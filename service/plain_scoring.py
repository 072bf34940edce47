"""Scores requests of the plainest form, each in one job of one scoring thread, by the native core.

Whoever asks is told the answer, or that the request is left to Python (`scoring`), which knows all that one may hold.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msd.contract.assemble import Rung
from service.admission import Admission, Load
from service.answer import Answer, Asked, Follower, headers_of
from service.job import Done, Job
from service.lineup.lineup import Arm, Lineup
from service.metrics import STAGES, Metrics
from service.native_path import Plain, may_be_plain
from service.run_queue import RunQueue
from service.stores.store import tell_core_rows

Told = Callable[["Answer | BaseException | None"], None]
"""Is told in the loop what became of a request; None where it is left to Python."""


class _Scored(NamedTuple):
    arm: Arm
    plain: Plain


class PlainScoring:
    """For the event loop. `followers` may want more of a request than the core tells; then it is left to Python."""

    def __init__(
        self, queue: RunQueue, admission: Admission, metrics: Metrics, followers: Sequence[Follower] = ()
    ) -> None:
        self._queue = queue
        self._admission = admission
        self._metrics = metrics
        self._followers = followers

    def wants(self, lineup: Lineup, asked: Asked) -> bool:
        """Whether it is worth a try."""
        if lineup.champion.native is None or not may_be_plain(asked.body):
            return False
        return not any(follower.wants(lineup, asked.request_id) for follower in self._followers)

    def expected(self, lineup: Lineup, size: int) -> Load:
        """What a body of so many bytes is expected to ask for."""
        rows = self._admission.rows_in(size)
        return Load(rows, lineup.champion.runner.turn_s.of(rows, 0.0))

    def begin(self, lineup: Lineup, asked: Asked, told: Told) -> Job[_Scored | None]:
        """Puts the request into the queue. Raises Overloaded."""
        terms, load = asked.terms, self.expected(lineup, len(asked.body))
        job: Job[_Scored | None] = Job(
            lambda: _work(job, lineup, asked), lineup.champion.runner, load.rows, terms.deadline, terms.is_gone
        )
        self._admission.enter(load, terms.deadline)

        def done(outcome: Done[_Scored | None] | BaseException) -> None:
            self._admission.leave(load)
            if isinstance(outcome, BaseException):
                told(outcome)
            elif outcome.result is None:
                told(None)
            else:
                told(self._answer(lineup, asked, outcome.result, outcome.queue_s))

        try:
            self._queue.put(job, done)
        except BaseException:
            self._admission.leave(load)
            raise
        return job

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers:
            follower.follow(answer)

    def _answer(self, lineup: Lineup, asked: Asked, scored: _Scored, queue_s: float) -> Answer:
        arm, plain = scored
        metrics, found = self._metrics, plain.found
        self._admission.read(len(asked.body), plain.candidates)
        if lineup.is_split:
            metrics.arms[arm.slot].inc()
        for stage, seconds in zip(
            STAGES, (plain.parse_s, plain.rows_s, queue_s, plain.run_s, plain.reply_s), strict=True
        ):
            metrics.stages[stage].observe(seconds)
        metrics.candidates.observe(plain.candidates)
        metrics.run_rows.observe(plain.candidates)
        tell_core_rows(metrics, plain.tier, found)
        degraded: dict[str, int] = {}
        if found.missing or not found.has_user:
            missing: list[Rung] = ["prior"] * found.missing
            metrics.degraded(missing, None if found.has_user else "unknown")
            degraded = {"prior": found.missing} if found.missing else {}
            degraded |= {} if found.has_user else {"user_unknown": 1}
        taken = (plain.parse_s, plain.rows_s, queue_s, plain.run_s, time.perf_counter() - asked.began)
        stages_s = (*taken[:-1], plain.reply_s)
        headers = headers_of(plain.reply, taken)
        return Answer(headers, plain.reply, plain.candidates, degraded, stages_s, lineup, None)


def _work(job: Job[_Scored | None], lineup: Lineup, asked: Asked) -> _Scored | None:
    """In a scoring thread."""
    job.rows, arm = 0, lineup.arms[0]
    path = arm.model.native
    frame = path.read(asked.body) if path else None
    if frame is not None and lineup.is_split:
        arm = lineup.arm_of(frame.core.user_id)
        path = arm.model.native
        frame = path.read(asked.body) if path else None
    if path is None or frame is None:
        return None
    plain = path.score(frame, asked.request_id, arm.name if lineup.is_split else None, asked.terms.deadline)
    if plain is None:
        return None
    job.rows = plain.candidates
    return _Scored(arm, plain)
