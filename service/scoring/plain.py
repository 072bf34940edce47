"""Scores plain requests, each in one job of one scoring thread: body, rows, run and reply, by the native core without
Python's lock, except for the call of the run.

The caller gets the answer, or the request is left to Python (`pipeline`), which supports all requests.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import native
from msd.contract.assemble import Rung, Tensors, UserRung
from msd.contract.schema import FeatureSchema
from native.layout import new_tensors
from service.errors import DeadlineExceeded, ModelError
from service.rows.store import CoreFound, CoreRows
from service.scoring.answer import Answer, Follower, Headers, RawRequest
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import PLANNED, Admitted, Done, Job, ScoringEngine, settle
from service.scoring.model import Model, WatchedCorrections
from service.telemetry.metrics import STAGES, Metrics, Tier

Told = Callable[[Answer | BaseException | None], None]
"""Called in the loop with a request's outcome; None if it is left to Python."""
Send = Callable[[Headers, bytes], None]
# Outcome of the core.
_FILLED = 0
_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"
_EXPLAINED = b", explain;dur=%.3f"


class LiveCache(Protocol):
    """Live states that can be read without waiting."""

    def cached(self, schema: FeatureSchema, user_id: str, ids: Sequence[str]) -> tuple[object, ...] | None:
        """Return the states of a user and of candidates, in the core's form; None if that would wait."""
        ...

    def tell(self, age_s: float) -> None:
        """Observe the age of a user's live state."""
        ...


class _Frame(NamedTuple):
    """One thread's buffers for one request of one model, as the core's frame and as tensors."""

    core: Any
    rows: CoreRows
    tensors: Tensors
    of_candidates: tuple[str, ...]

    def cut(self, count: int) -> Tensors:
        """Return the tensors of the first `count` candidates."""
        return self.tensors | {name: self.tensors[name][:count] for name in self.of_candidates}


class _Scored(NamedTuple):
    """An answer, its arm, the sources of its rows, and its degradation."""

    answer: Answer
    arm: Arm
    tier: Tier
    found: CoreFound
    rows: int
    """Candidates in the run: fewer than all, and an unknown one, if time was short."""
    rungs: dict[Rung, int]
    user_rung: UserRung | None


PlainJob = Job[_Scored | None]


class PlainScoring:
    """For the event loop. `followers`, and `shadowing` if there are shadows, may need more than the core returns; then
    the request is left to Python."""

    def __init__(
        self,
        engine: ScoringEngine,
        metrics: Metrics,
        max_candidates: int,
        shadowing: Follower,
        followers: Sequence[Follower] = (),
        live: LiveCache | None = None,
        corrections: WatchedCorrections | None = None,
    ) -> None:
        """`max_candidates`: of one request."""
        self._engine = engine
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._shadowing = shadowing
        self._followers = followers
        self._live = live
        self._corrections = corrections

    def wants(self, deployment: Deployment, raw: RawRequest) -> bool:
        """Return whether the core probably supports the request: scanning the body costs less than a failed attempt."""
        body = raw.body
        if deployment.champion.native is None or b'"items"' in body or b'"explain"' in body or b'"features"' in body:
            return False
        return not any(follower.wants(deployment, raw.request_id) for follower in self._followers_of(deployment))

    def begin(self, deployment: Deployment, raw: RawRequest, told: Told, send: Send | None = None) -> PlainJob:
        """Put the request into the queue; `send` is called with the reply in the scoring thread.

        Raises Overloaded.
        """
        budget, champion = raw.budget, deployment.champion
        rows = self._engine.rows_in(len(raw.body))
        admitted = self._engine.enter(champion.runner.load_of(rows), budget.deadline)
        job: PlainJob = Job(
            lambda: self._work(job, deployment, raw, send),
            champion.runner,
            rows,
            budget.deadline,
            budget.is_gone,
            is_run=False,
        )
        try:
            self._engine.put(job, partial(self._done, deployment, raw, admitted, told))
        except BaseException:
            self._engine.release(admitted)
            raise
        return job

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer | None:
        """As `begin`, for a caller that waits. Raises the outcome's errors too."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        job = self.begin(deployment, raw, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self._engine.cancel(job)
            raise

    def leave(self, job: PlainJob) -> None:
        self._engine.leave(job)

    def follow(self, answer: Answer) -> None:
        for follower in self._followers_of(answer.deployment):
            follower.follow(answer)

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        return (self._shadowing, *self._followers) if deployment.shadows else self._followers

    # In a scoring thread

    def _work(self, job: PlainJob, deployment: Deployment, raw: RawRequest, send: Send | None) -> _Scored | None:
        queue_s, arm = time.perf_counter() - job.native.queued_at, deployment.arms[0]
        if deployment.is_split:
            frame = self._frame(arm.model)
            if frame is None or not frame.core.read(raw.body, self._max_candidates):
                return None
            arm = deployment.arm_of(str(frame.core.user_id))
        scored = self._score(deployment, raw, queue_s, arm)
        if scored is None:
            return None
        job.native.ran(arm.model.runner.native, scored.rows)
        if send is not None and job.native.answer():
            send(scored.answer.headers, scored.answer.body)
        return scored

    def _score(self, deployment: Deployment, raw: RawRequest, queue_s: float, arm: Arm) -> _Scored | None:
        """Score a request; None if it is left to Python: another form, or rows or live states that would have to be
        fetched.

        Raises DeadlineExceeded if there is no time for a run, ModelError for a non-finite score, or what the model
        raises.
        """
        model, frame = arm.model, self._frame(arm.model)
        if frame is None:
            return None
        core, sources = frame.core, frame.rows
        epochs = None if sources.epochs is None else sources.epochs()
        live = self._live and partial(self._live.cached, model.schema)
        if (
            core.take(raw.body, self._max_candidates, sources.users, sources.items, time.time(), epochs, live)
            != _FILLED
        ):
            return None
        count: int = core.count
        started = time.perf_counter()
        rows = model.runner.native.fitting(count, PLANNED * (raw.budget.deadline - time.perf_counter()))
        if not rows:
            raise DeadlineExceeded("deadline exceeded: too little time left for one model run")
        ran = count if rows == count else rows - 1
        if ran < count:
            core.cut(ran)
        scores = {head: _contiguous(column) for head, column in model.runner.runtime.run(frame.cut(rows)).items()}
        ended = time.perf_counter()
        correction = self._corrections.of(model) if self._corrections else None
        arm_name = arm.name if deployment.is_split else None
        try:
            reply: bytes = core.reply(
                raw.request_id, arm_name, scores, ran, None if correction is None else tuple(correction.values)
            )
        except ValueError as error:
            raise ModelError("the model returned a non-finite score for this request") from error
        parse_s, rows_s = core.seconds
        now, found = time.perf_counter(), CoreFound(*core.found)
        user_rung, rungs = core.degraded
        degraded = dict(rungs) if user_rung is None else {**rungs, f"user_{user_rung}": 1}
        taken = (parse_s, rows_s, queue_s, ended - started)
        headers = headers_of(reply, (*taken, now - raw.began))
        answer = Answer(headers, reply, count, degraded, (*taken, now - ended), deployment, None)
        return _Scored(answer, arm, sources.tier, found, rows, rungs, user_rung)

    def _frame(self, model: Model) -> _Frame | None:
        """Return the calling thread's frame; None if Python scores all requests of the model."""
        if model.native is None:
            return None
        frame: _Frame | None = getattr(model.native.frames, "own", None)
        if frame is None:
            assert native.core is not None, "it is loaded where there is a core"
            tensors = new_tensors(model.schema, self._max_candidates)
            core = native.core.Frame(model.native.schema, model.native.served, tensors, self._max_candidates)
            of_candidates = tuple(spec.name for spec in model.schema.tensors if spec.side == "item")
            frame = model.native.frames.own = _Frame(core, model.native.rows, tensors, of_candidates)
        return frame

    # Back in the event loop

    def _done(
        self,
        deployment: Deployment,
        raw: RawRequest,
        admitted: Admitted,
        told: Told,
        outcome: Done[_Scored | None] | BaseException,
    ) -> None:
        self._engine.release(admitted)
        if isinstance(outcome, BaseException):
            told(outcome)
        elif outcome.result is None:
            told(None)
        else:
            try:
                self._count(len(raw.body), outcome.result)
            finally:
                told(outcome.result.answer)

    def _count(self, size: int, scored: _Scored) -> None:
        answer, arm, found = scored.answer, scored.arm, scored.found
        metrics = self._metrics
        self._engine.read(size, answer.candidates)
        if answer.deployment.is_split:
            metrics.arms[arm.slot].inc()
        for stage, seconds in zip(STAGES, answer.stages, strict=True):
            metrics.stages[stage].observe(seconds)
        metrics.candidates.observe(answer.candidates)
        metrics.run_rows.observe(scored.rows)
        if scored.rows < answer.candidates:
            metrics.partial.inc()
        self._count_rows(scored.tier, found)
        if self._live is not None and not math.isnan(found.live_age_s):
            self._live.tell(found.live_age_s)
        metrics.degraded(scored.rungs, scored.user_rung)

    def _count_rows(self, tier: Tier, found: CoreFound) -> None:
        """Count the user's and the items' rows, as a store's `tell_rows` does."""
        metrics, now = self._metrics, time.time()
        rows = found.has_user + found.items
        if rows:
            metrics.rows[tier].inc(rows)
        if missing := 1 + found.asked - rows:
            metrics.rows["missing"].inc(missing)
        if found.user_written_at:
            metrics.row_ages["user"].observe(now - found.user_written_at)
        if found.item_written_at:
            metrics.row_ages["item"].observe(now - found.item_written_at)


def headers_of(reply: bytes, taken: tuple[float, ...], explain_s: float | None = None) -> Headers:
    """Return a reply's headers; `taken`: seconds of parse, rows, queue, run and in total."""
    timing = _TIMING % tuple(1000 * seconds for seconds in taken)
    if explain_s is not None:
        timing += _EXPLAINED % (1000 * explain_s)
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply)),
        (b"server-timing", timing),
    ]


def _contiguous(column: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a contiguous array: a runtime may return a slice of a larger one."""
    return column if column.flags.c_contiguous else column.copy()
