"""Scores requests, each in one job of one scoring thread: body, rows, run and reply, by the native core without
Python's lock. Rows that are not in memory are fetched in the event loop, and handed to a second job.

The caller gets the answer, or the request is left to Python (`pipeline`), which supports all requests.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from msd.contract.assemble import Rung, UserRung
from msd.contract.request import CheckedRequest, RequestError, check_pricing, parse_request_by
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from native.layout import asked_request, given_rows
from service.errors import ModelError
from service.rows.store import CoreFound
from service.scoring.answer import Answer, Follower, Headers, RawRequest, Wire
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import Admitted, ScoringEngine, error_of, settle
from service.scoring.model import Model, WatchedCorrections
from service.telemetry.metrics import STAGES, Metrics

Told = Callable[[Answer | BaseException | None], None]
"""Called in the loop with a request's outcome; None if it is left to Python."""
# How a request fared that a thread has read.
_SCORED, _REFUSED, _LEFT, _LACKING, _NOT_FINITE = range(5)
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


class _Choice(NamedTuple):
    """With what a request is scored, for the core."""

    model: Any
    """The arm's, in the core's form."""
    name: str | None
    """The arm's, if there are several."""
    epochs: Sequence[int] | None
    """The current ones, if rows are in arenas."""
    live: Callable[[str | None, Sequence[str]], object] | None
    reads_texts: bool
    """Whether texts of ads without a row are encoded."""
    correction: Sequence[float] | None
    arm: Arm
    """For the event loop, to which the core returns the choice."""


class _Found(NamedTuple):
    """What a scoring thread found out."""

    fate: int
    choice: _Choice
    lacking: CheckedRequest
    """What has to be fetched."""
    reply: bytes
    """The reply; or the bytes left to send, if the thread has sent it."""
    candidates: int
    stages: tuple[float, float, float, float, float]
    """Seconds of parse, rows, queue, run and reply."""
    ready_at: float
    """When the reply was ready."""
    found: tuple[Any, ...] | None
    """The sources of its rows, if they were not fetched."""
    degraded: tuple[UserRung | None, dict[Rung, int]]
    rows: int = 0
    """Candidates in the run: fewer than all, and an unknown one, if time was short."""


Fetch = Callable[[Model, CheckedRequest, float, float], Awaitable[tuple[Rows, Rows]]]
"""Returns the rows of a request's user [1], and of `wanted_items`, as of a time, before a deadline."""


class Way:
    """The way of one request through the queue: once, and again if it lacks something."""

    __slots__ = ("admitted", "arm", "deployment", "native", "raw", "tell", "told", "wire")

    def __init__(
        self, deployment: Deployment, raw: RawRequest, tell: Told, wire: Wire | None, admitted: Admitted
    ) -> None:
        self.deployment, self.raw, self.tell, self.wire, self.admitted = deployment, raw, tell, wire, admitted
        self.arm: Arm | None = None if deployment.is_split else deployment.arms[0]
        """The user's, once the request is read."""
        self.native: Any = None
        self.told: Callable[[Any], None] | None = None

    @property
    def first(self) -> Any:  # noqa: ANN401 - the core has no types
        """The model that reads the request, in the core's form."""
        core = (self.arm or self.deployment.arms[0]).model.native
        assert core is not None, "its deployment was wanted"
        return core.loaded

    def outcome(self, metrics: Metrics) -> _Found | BaseException:
        ending, result, _, _, _, rows, _ = self.native.take_outcome()
        return error_of(ending, result) or _Found(*result)._replace(rows=rows)


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
        if b'"explain"' in body or b'"explore"' in body or any(arm.model.native is None for arm in deployment.arms):
            return False
        return not any(follower.wants(deployment, raw.request_id) for follower in self._followers_of(deployment))

    def begin(self, deployment: Deployment, raw: RawRequest, tell: Told, wire: Wire | None = None) -> Way:
        """Put the request into the queue; with `wire` the scoring thread sends as much of the reply as it can.

        Raises Overloaded.
        """
        rows = self._engine.rows_in(len(raw.body))
        admitted = self._engine.enter(deployment.champion.runner.load_of(rows), raw.budget.deadline)
        way = Way(deployment, raw, tell, wire, admitted)
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
            self._engine.cancel(way)
            raise

    def leave(self, way: Way) -> None:
        """Drop a request whose connection ends; nothing is written to it any more."""
        way.first.hang_up(way.native)
        self._engine.leave(way)

    def follow(self, answer: Answer) -> None:
        for follower in self._followers_of(answer.deployment):
            follower.follow(answer)

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        return (self._shadowing, *self._followers) if deployment.shadows else self._followers

    def _put(self, way: Way, given: tuple[object, ...] | None = None) -> None:
        """Put a request in; `given`: the rows that it lacked, as of a time, and the seconds that fetching them took."""
        raw, deployment = way.raw, way.deployment
        choice = (
            partial(self._choose, deployment, raw.request_id) if way.arm is None else self._choice(way.arm, deployment)
        )
        way.native = way.first.job(
            raw.body,
            raw.request_id,
            self._max_candidates,
            way.admitted.load.rows,
            raw.budget.deadline,
            raw.began,
            choice,
            given,
            # Otherwise `leave` says so.
            raw.budget.is_gone if way.wire is None else None,
            _lacking,
            way.wire,
        )
        self._engine.put(way, partial(self._done, way))

    def _choice(self, arm: Arm, deployment: Deployment) -> _Choice:
        model = arm.model
        assert model.native is not None, "its deployment was wanted"
        epochs = model.native.rows.epochs
        correction = self._corrections.of(model) if self._corrections else None
        return _Choice(
            model.native.loaded,
            arm.name if deployment.is_split else None,
            None if epochs is None else epochs(),
            None if self._live is None else partial(self._live.cached, model.schema),
            bool(self._reads_texts and self._reads_texts(model)),
            None if correction is None else tuple(correction.values),
            arm,
        )

    # In a scoring thread

    def _choose(self, deployment: Deployment, request_id: str, user_id: str) -> _Choice:
        return self._choice(deployment.arm_of(user_id or request_id), deployment)

    # Back in the event loop

    def _done(self, way: Way, found: _Found | BaseException) -> None:
        if isinstance(found, BaseException):
            self._end(way, found)
        elif found.fate == _SCORED:
            answer = self._answer(way, found)
            try:
                self._count(len(way.raw.body), answer, found)
            finally:
                self._end(way, answer)
        elif found.fate == _LACKING:
            way.arm = found.choice.arm
            fetching = asyncio.get_running_loop().create_task(self._go_on(way, way.arm, found.lacking))
            self._fetching.add(fetching)
            fetching.add_done_callback(self._fetching.discard)
        elif found.fate == _REFUSED:
            self._end(way, self._refusal(way))
        elif found.fate == _NOT_FINITE:
            self._end(way, ModelError("the model returned a non-finite score for this request"))
        else:
            self._end(way, None)

    def _end(self, way: Way, outcome: Answer | BaseException | None) -> None:
        self._engine.release(way.admitted)
        way.tell(outcome)

    def _answer(self, way: Way, found: _Found) -> Answer:
        user_rung, rungs = found.degraded
        degraded: dict[str, int] = {rung: count for rung, count in rungs.items()}
        if user_rung is not None:
            degraded[f"user_{user_rung}"] = 1
        taken = (*found.stages[:4], found.ready_at - way.raw.began)
        headers = headers_of(found.reply, taken) if way.wire is None else []
        stages, at = found.stages, found.ready_at
        return Answer(headers, found.reply, found.candidates, degraded, stages, at, way.deployment, None)

    async def _go_on(self, way: Way, arm: Arm, request: CheckedRequest) -> None:
        """Fetch what a request lacks, and put it into the queue again."""
        try:
            started = time.perf_counter()
            at = time.time() if request.at is None else request.at
            user, items = await self._fetch(arm.model, request, at, way.raw.budget.deadline)
            self._put(way, (*given_rows(user, items), at, time.perf_counter() - started))
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

    def _count(self, size: int, answer: Answer, scored: _Found) -> None:
        metrics, (user_rung, rungs), arm = self._metrics, scored.degraded, scored.choice.arm
        self._engine.read(size, answer.candidates)
        if answer.deployment.is_split:
            metrics.arms[arm.slot].inc()
        for stage, seconds in zip(STAGES, answer.stages, strict=True):
            metrics.stages[stage].observe(seconds)
        metrics.candidates.observe(answer.candidates)
        metrics.run_rows.observe(scored.rows)
        if scored.rows < answer.candidates:
            metrics.partial.inc()
        if scored.found is not None:
            self._count_rows(arm.model, CoreFound(*scored.found))
        metrics.degraded(rungs, user_rung)

    def _count_rows(self, model: Model, found: CoreFound) -> None:
        """Count the user's and the items' rows, as a store's `tell_rows` does."""
        assert model.native is not None, "it has scored"
        metrics, now = self._metrics, time.time()
        rows = found.has_user + found.items
        if rows:
            metrics.rows[model.native.rows.tier].inc(rows)
        if missing := found.asked - rows:
            metrics.rows["missing"].inc(missing)
        if found.user_written_at:
            metrics.row_ages["user"].observe(now - found.user_written_at)
        if found.item_written_at:
            metrics.row_ages["item"].observe(now - found.item_written_at)
        if self._live is not None and not math.isnan(found.live_age_s):
            self._live.tell(found.live_age_s)


def _lacking(frame: Any) -> CheckedRequest:  # noqa: ANN401 - the core has no types
    return asked_request(frame.asked)


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
