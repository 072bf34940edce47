"""Scores requests, each in one job of one scoring thread: body, rows, run and reply, by the native core without
Python's lock, except for the call of the run. Rows that are not in memory are fetched in the event loop, and handed to
a second job.

The caller gets the answer, or the request is left to Python (`pipeline`), which supports all requests.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import native
from msd.contract.assemble import Rung, Tensors, UserRung
from msd.contract.request import CheckedRequest, RequestError, check_pricing, parse_request_by
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from native.layout import asked_request, given_rows, new_tensors
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
# Outcomes of the core.
_FILLED, _UNREAD, _LACKING = range(3)
_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"
_EXPLAINED = b", explain;dur=%.3f"


class LiveCache(Protocol):
    """Live states that can be read without waiting."""

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...] | None:
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


class _Refused(NamedTuple):
    """A request that `msd.contract` refuses."""


class _Lacking(NamedTuple):
    """As much of a request as says what has to be fetched before it can be scored."""

    request: CheckedRequest


class Given(NamedTuple):
    """Rows that were fetched, of the user [1], and of candidates and history, as of a time (Unix s); and the seconds
    that this took."""

    at: float
    user: Rows
    items: Rows
    seconds: float


class _Scored(NamedTuple):
    """An answer, its arm, the sources of its rows if the core found them, and its degradation."""

    answer: Answer
    arm: Arm
    tier: Tier
    found: CoreFound | None
    rows: int
    """Candidates in the run: fewer than all, and an unknown one, if time was short."""
    rungs: dict[Rung, int]
    user_rung: UserRung | None


_Outcome = _Scored | _Lacking | _Refused | None
PlainJob = Job[_Outcome]
Fetch = Callable[[Model, CheckedRequest, float, float], Awaitable[tuple[Rows, Rows]]]
"""Returns the rows of a request's user [1], and of `wanted_items`, as of a time, before a deadline."""


class Way:
    """The way of one request through the queue: once, and again if it lacks something."""

    __slots__ = ("admitted", "arm", "deployment", "given", "job", "raw", "send", "told")

    job: PlainJob

    def __init__(
        self, deployment: Deployment, raw: RawRequest, told: Told, send: Send | None, admitted: Admitted
    ) -> None:
        self.deployment, self.raw, self.told, self.send, self.admitted = deployment, raw, told, send, admitted
        self.arm = deployment.arms[0]
        """The user's, once the request is read."""
        self.given: Given | None = None


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
        *,
        fetch: Fetch,
        reads_texts: Callable[[Model], bool] | None = None,
    ) -> None:
        """`max_candidates`: of one request. `reads_texts`: whether a model's texts of ads without a row are encoded."""
        self._engine = engine
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._shadowing = shadowing
        self._followers = followers
        self._live = live
        self._corrections = corrections
        self._fetch = fetch
        self._reads_texts = reads_texts
        self._fetching: set[asyncio.Task[None]] = set()

    def wants(self, deployment: Deployment, raw: RawRequest) -> bool:
        """Return whether the core probably supports the request: scanning the body costs less than a failed attempt."""
        body = raw.body
        if deployment.champion.native is None or b'"explain"' in body or b'"explore"' in body:
            return False
        return not any(follower.wants(deployment, raw.request_id) for follower in self._followers_of(deployment))

    def begin(self, deployment: Deployment, raw: RawRequest, told: Told, send: Send | None = None) -> Way:
        """Put the request into the queue; `send` is called with the reply in the scoring thread.

        Raises Overloaded.
        """
        rows = self._engine.rows_in(len(raw.body))
        admitted = self._engine.enter(deployment.champion.runner.load_of(rows), raw.budget.deadline)
        way = Way(deployment, raw, told, send, admitted)
        try:
            self._put(way)
        except BaseException:
            self._engine.release(admitted)
            raise
        return way

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer | None:
        """As `begin`, for a caller that waits. Raises the outcome's errors too."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        way = self.begin(deployment, raw, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self._engine.cancel(way.job)
            raise

    def leave(self, way: Way) -> None:
        self._engine.leave(way.job)

    def follow(self, answer: Answer) -> None:
        for follower in self._followers_of(answer.deployment):
            follower.follow(answer)

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        return (self._shadowing, *self._followers) if deployment.shadows else self._followers

    def _put(self, way: Way) -> None:
        runner, budget = way.arm.model.runner, way.raw.budget
        rows = way.admitted.load.rows
        way.job = Job(lambda: self._work(way), runner, rows, budget.deadline, budget.is_gone, is_run=False)
        self._engine.put(way.job, partial(self._done, way))

    # In a scoring thread

    def _work(self, way: Way) -> _Outcome:
        job, deployment, raw = way.job, way.deployment, way.raw
        queue_s = time.perf_counter() - job.native.queued_at
        if deployment.is_split and way.given is None:
            frame = self._frame(way.arm.model)
            if frame is None:
                return None
            if not frame.core.read(raw.body, self._max_candidates):
                return _Refused()
            way.arm = deployment.arm_of(frame.core.user_id or raw.request_id)
        outcome = self._score(way, queue_s)
        if isinstance(outcome, _Scored):
            job.native.ran(way.arm.model.runner.native, outcome.rows)
            if way.send is not None and job.native.answer():
                way.send(outcome.answer.headers, outcome.answer.body)
        return outcome

    def _take(self, way: Way, frame: _Frame) -> int:
        """Read and fill the request, from what was fetched or from memory."""
        model, body, given = way.arm.model, way.raw.body, way.given
        if given is not None:
            rows = given_rows(given.user, given.items)
            return int(frame.core.take(body, self._max_candidates, *rows, given.at, None, None, False, False))
        sources = frame.rows
        epochs = None if sources.epochs is None else sources.epochs()
        live = self._live and partial(self._live.cached, model.schema)
        rows, reads_texts = (sources.users, sources.items), bool(self._reads_texts and self._reads_texts(model))
        outcome = frame.core.take(body, self._max_candidates, *rows, time.time(), epochs, live, reads_texts, False)
        return int(outcome)

    def _score(self, way: Way, queue_s: float) -> _Outcome:
        """Score a request, or say what prevents it; None if it is left to Python.

        Raises DeadlineExceeded if there is no time for a run, ModelError for a non-finite score, or what the model
        raises.
        """
        deployment, raw, arm = way.deployment, way.raw, way.arm
        model, frame = arm.model, self._frame(arm.model)
        if frame is None:
            return None
        core, sources = frame.core, frame.rows
        outcome = self._take(way, frame)
        if outcome == _UNREAD:
            return _Refused()
        if not core.is_plain:
            return None
        if outcome == _LACKING:
            if way.given is not None:
                raise RuntimeError("the native core lacks rows that it was given")
            return _Lacking(asked_request(core.asked))
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
        now, found = time.perf_counter(), None
        if way.given is None:
            found = CoreFound(*core.found)
        else:
            rows_s += way.given.seconds
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

    def _done(self, way: Way, outcome: Done[_Outcome] | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._end(way, outcome)
        elif isinstance(outcome.result, _Lacking):
            fetching = asyncio.get_running_loop().create_task(self._go_on(way, outcome.result.request))
            self._fetching.add(fetching)
            fetching.add_done_callback(self._fetching.discard)
        elif isinstance(outcome.result, _Refused):
            self._end(way, self._refusal(way))
        elif outcome.result is None:
            self._end(way, None)
        else:
            try:
                self._count(len(way.raw.body), outcome.result)
            finally:
                self._end(way, outcome.result.answer)

    def _end(self, way: Way, outcome: Answer | BaseException | None) -> None:
        self._engine.release(way.admitted)
        way.told(outcome)

    async def _go_on(self, way: Way, request: CheckedRequest) -> None:
        """Fetch what a request lacks, and put it into the queue again."""
        try:
            started = time.perf_counter()
            at = time.time() if request.at is None else request.at
            user, items = await self._fetch(way.arm.model, request, at, way.raw.budget.deadline)
            way.given = Given(at, user, items, time.perf_counter() - started)
            self._put(way)
        except (Exception, asyncio.CancelledError) as error:
            self._end(way, error)

    def _refusal(self, way: Way) -> Exception:
        """Return the error of a request that the core refuses."""
        deployment, request_id = way.deployment, way.raw.request_id
        try:
            request = parse_request_by(
                way.raw.body, lambda user_id: deployment.schema_of(user_id or request_id), self._max_candidates
            )
            check_pricing(request, deployment.arm_of(request.user_id or request_id).model.bundle.manifest.formula)
        except RequestError as error:
            return error
        return RuntimeError("the native core refuses a request that msd.contract accepts")

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
        if found is not None:
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
        if missing := found.asked - rows:
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
