"""Scores requests of the plainest form, each in one job of one scoring thread, by the native core.

Whoever asks is told the answer, or that the request is left to Python (`scoring`), which knows all that one may hold.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from msd.contract.assemble import Rung
from service.models.lineup import Arm, Lineup
from service.models.native_path import Plain, may_be_plain
from service.rows.store import tell_core_rows
from service.scoring.admission import Admission, Load
from service.scoring.answer import Answer, Asked, Follower, headers_of
from service.scoring.job import Done, Job
from service.scoring.run_queue import RunQueue
from service.telemetry.metrics import STAGES, Metrics

Told = Callable[["Answer | BaseException | None"], None]
"""Is told in the loop what became of a request; None where it is left to Python."""


Send = Callable[[Answer], None]


def _nothing(answer: Answer) -> None:
    return None


class _Scored(NamedTuple):
    arm: Arm
    plain: Plain
    answer: Answer


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

    def begin(self, lineup: Lineup, asked: Asked, told: Told, send: Send = _nothing) -> Job[_Scored | None]:
        """Puts the request into the queue; `send` is called with the answer in the scoring thread.

        Raises Overloaded.
        """
        terms, load = asked.terms, self.expected(lineup, len(asked.body))
        job: Job[_Scored | None] = Job(
            lambda: _work(job, lineup, asked, send), lineup.champion.runner, load.rows, terms.deadline, terms.is_gone
        )
        self._admission.enter(load, terms.deadline)
        try:
            self._queue.put(job, partial(self._done, lineup, asked, load, told))
        except BaseException:
            self._admission.leave(load)
            raise
        return job

    def _done(
        self, lineup: Lineup, asked: Asked, load: Load, told: Told, outcome: Done[_Scored | None] | BaseException
    ) -> None:
        self._admission.leave(load)
        if isinstance(outcome, BaseException):
            told(outcome)
        elif outcome.result is None:
            told(None)
        else:
            self._count(len(asked.body), lineup, outcome.result)
            told(outcome.result.answer)

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers:
            follower.follow(answer)

    def _count(self, size: int, lineup: Lineup, scored: _Scored) -> None:
        arm, plain, answer = scored
        metrics, found = self._metrics, plain.found
        self._admission.read(size, plain.candidates)
        if lineup.is_split:
            metrics.arms[arm.slot].inc()
        for stage, seconds in zip(STAGES, answer.stages, strict=True):
            metrics.stages[stage].observe(seconds)
        metrics.candidates.observe(plain.candidates)
        metrics.run_rows.observe(plain.candidates)
        tell_core_rows(metrics, plain.tier, found)
        if answer.degraded:
            missing: list[Rung] = ["prior"] * found.missing
            metrics.degraded(missing, None if found.has_user else "unknown")


def _work(job: Job[_Scored | None], lineup: Lineup, asked: Asked, send: Send) -> _Scored | None:
    """In a scoring thread."""
    started = time.perf_counter()
    job.rows, arm = 0, lineup.arms[0]
    if lineup.is_split:
        user_id = arm.model.native.user_of(asked.body) if arm.model.native else None
        if user_id is None:
            return None
        arm = lineup.arm_of(user_id)
    path, job.runner = arm.model.native, arm.model.runner
    if path is None:
        return None
    plain = path.score(asked.body, asked.request_id, arm.name if lineup.is_split else None, asked.terms.deadline)
    if plain is None:
        return None
    job.rows = plain.candidates
    answer = _answer(asked, lineup, plain, started - job.queued_at)
    send(answer)
    return _Scored(arm, plain, answer)


def _answer(asked: Asked, lineup: Lineup, plain: Plain, queue_s: float) -> Answer:
    found, degraded = plain.found, {}
    if found.missing:
        degraded["prior"] = found.missing
    if not found.has_user:
        degraded["user_unknown"] = 1
    taken = (plain.parse_s, plain.rows_s, queue_s, plain.run_s, time.perf_counter() - asked.began)
    stages_s = (*taken[:-1], plain.reply_s)
    return Answer(headers_of(plain.reply, taken), plain.reply, plain.candidates, degraded, stages_s, lineup, None)
