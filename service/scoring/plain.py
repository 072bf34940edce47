"""Scores requests of the plainest form, each in one job of one scoring thread, by the native core.

The caller is told the answer, or that the request is left to Python (`pipeline`), which knows all that one may hold.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from msd.contract.assemble import Rung
from msd.contract.schema import FeatureSchema
from service.models.lineup import Arm, Lineup
from service.models.model import WatchedCorrections
from service.models.native_path import Plain, may_be_plain
from service.scoring.admission import Admitted, Load
from service.scoring.answer import Answer, Asked, Follower, Headers
from service.scoring.job import Done, Job
from service.scoring.run_queue import RunQueue, settle
from service.telemetry.metrics import STAGES, Metrics

Told = Callable[[Answer | BaseException | None], None]
"""Called in the loop with the outcome of a request; None if it is left to Python."""
Send = Callable[[Answer], None]
_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"
_EXPLAINED = b", explain;dur=%.3f"


class LiveAtHand(Protocol):
    """Live states that are read without waiting."""

    def at_hand(self, schema: FeatureSchema, user_id: str, ids: Sequence[str]) -> tuple[object, ...] | None:
        """Those of a user and of candidates, as `native_path.LiveOf` has them."""
        ...

    def tell(self, age_s: float) -> None:
        """Counts how long ago what is live of a user ends."""
        ...


class _Scored(NamedTuple):
    arm: Arm
    plain: Plain
    answer: Answer


PlainJob = Job[_Scored | None]


class PlainScoring:
    """For the event loop. `followers`, and `shadowing` where a line-up has shadows, may want more of a request than the
    core tells; then it is left to Python."""

    def __init__(
        self,
        queue: RunQueue,
        metrics: Metrics,
        shadowing: Follower,
        followers: Sequence[Follower] = (),
        live: LiveAtHand | None = None,
        corrections: WatchedCorrections | None = None,
    ) -> None:
        self._queue = queue
        self._admission = queue.admission
        self._metrics = metrics
        self._shadowing = shadowing
        self._followers = followers
        self._live = live
        self._corrections = corrections

    def wants(self, lineup: Lineup, asked: Asked) -> bool:
        """Whether it is worth a try."""
        if lineup.champion.native is None or not may_be_plain(asked.body):
            return False
        return not any(follower.wants(lineup, asked.request_id) for follower in self._followers_of(lineup))

    def begin(self, lineup: Lineup, asked: Asked, told: Told, send: Send | None = None) -> PlainJob:
        """Put the request into the queue; `send` is called with the answer in the scoring thread.

        Raises Overloaded.
        """
        terms, runner = asked.terms, lineup.champion.runner
        rows = self._admission.rows_in(len(asked.body))
        admitted = self._admission.enter(Load(rows, runner.turn_s.of(rows, 0.0)), terms.deadline)
        job: PlainJob = Job(lambda: self._work(job, lineup, asked, send), runner, rows, terms.deadline, terms.is_gone)
        try:
            self._queue.put(job, partial(self._done, lineup, asked, admitted, told))
        except BaseException:
            self._admission.leave(admitted)
            raise
        return job

    async def answer(self, lineup: Lineup, asked: Asked) -> Answer | None:
        """As `begin`, for a caller that waits. Raises what it would be told, too."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        job = self.begin(lineup, asked, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self._queue.cancel(job)
            raise

    def leave(self, job: PlainJob) -> None:
        """The client has left."""
        self._queue.leave(job)

    def _work(self, job: PlainJob, lineup: Lineup, asked: Asked, send: Send | None) -> _Scored | None:
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
        named = arm.name if lineup.is_split else None
        live = self._live.at_hand if self._live else None
        correction = self._corrections.of(arm.model) if self._corrections else None
        plain = path.score(asked.body, asked.request_id, named, asked.terms.deadline, live, correction)
        if plain is None:
            return None
        job.rows = plain.candidates
        answer = _answer(asked, lineup, plain, started - job.queued_at)
        if send is not None and job.claim():
            job.is_answered = True
            send(answer)
        return _Scored(arm, plain, answer)

    def _done(
        self,
        lineup: Lineup,
        asked: Asked,
        admitted: Admitted,
        told: Told,
        outcome: Done[_Scored | None] | BaseException,
    ) -> None:
        self._admission.leave(admitted)
        if isinstance(outcome, BaseException):
            told(outcome)
        elif outcome.result is None:
            told(None)
        else:
            try:
                self._count(len(asked.body), lineup, outcome.result)
            finally:
                told(outcome.result.answer)

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers_of(answer.lineup):
            follower.follow(answer)

    def _followers_of(self, lineup: Lineup) -> Sequence[Follower]:
        return (self._shadowing, *self._followers) if lineup.shadows else self._followers

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
        self._count_rows(plain)
        if self._live is not None and not math.isnan(found.live_age_s):
            self._live.tell(found.live_age_s)
        if answer.degraded:
            missing: list[Rung] = ["prior"] * found.missing
            metrics.degraded(missing, None if found.has_user else "unknown")

    def _count_rows(self, plain: Plain) -> None:
        """As `tell_rows` of a store counts the user's and the items'."""
        metrics, found, now = self._metrics, plain.found, time.time()
        rows = found.has_user + found.items
        if rows:
            metrics.rows[plain.tier].inc(rows)
        if missing := 1 + found.asked - rows:
            metrics.rows["missing"].inc(missing)
        if found.user_written_at:
            metrics.row_ages["user"].observe(now - found.user_written_at)
        if found.item_written_at:
            metrics.row_ages["item"].observe(now - found.item_written_at)


def headers_of(reply: bytes, taken: tuple[float, ...], explain_s: float | None = None) -> Headers:
    """The headers of a reply; `taken`: seconds of parse, rows, queue, run and all of it."""
    timing = _TIMING % tuple(1000 * seconds for seconds in taken)
    if explain_s is not None:
        timing += _EXPLAINED % (1000 * explain_s)
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply)),
        (b"server-timing", timing),
    ]


def _answer(asked: Asked, lineup: Lineup, plain: Plain, queue_s: float) -> Answer:
    found, degraded = plain.found, {}
    if found.missing:
        degraded["prior"] = found.missing
    if not found.has_user:
        degraded["user_unknown"] = 1
    taken = (plain.parse_s, plain.rows_s, queue_s, plain.run_s, time.perf_counter() - asked.began)
    stages_s = (*taken[:-1], plain.reply_s)
    return Answer(headers_of(plain.reply, taken), plain.reply, plain.candidates, degraded, stages_s, lineup, None)
