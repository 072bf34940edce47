"""The way of a scoring request, from its body to its reply's: one job of one scoring thread reads, fills, runs and
replies, by the native core without Python's lock.

Rows that are not in memory are fetched in the event loop, and the request goes into the queue again. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from msd.contract.assemble import Rung, Tensors, UserRung
from msd.contract.correction import HEAD, Correction
from msd.contract.exploration import exploration_of
from msd.contract.request import CheckedRequest, RequestError, check_pricing, parse_request_by
from native.layout import given_rows
from service.errors import DeadlineExceeded, ModelError
from service.json_parser import JsonParser
from service.scoring.answer import Answer, Basis, Budget, Explained, Follower, RawRequest, Served, headers_of
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import Admitted, ScoringEngine, error_of, settle
from service.scoring.frames import Frame, Frames, Given, frame_of
from service.scoring.model import Model, WatchedCorrections
from service.scoring.reply import Explanation, with_explanation
from service.telemetry.metrics import Metrics

_DENSE = {"user_dense", "item_dense", "context_dense"}
# How a request fares that a thread has read.
_SCORED, _REFUSED, _ASKING, _LACKING, _NOT_FINITE = range(5)
Told = Callable[[Answer | BaseException], None]
"""Called in the loop with a request's outcome."""
Taken = tuple[float, float, float, float]
"""Seconds of parse, rows, queue and run."""
_UNBOUNDED = Budget(float("inf"), lambda: False)


class Explain(Protocol):
    """Explains scores, within a budget of its own."""

    def begin(self) -> None:
        """Accept one explanation until `end`. Raises Overloaded, InvalidRequest."""
        ...

    def end(self) -> None: ...

    async def explain(self, model: Model, explained: Explained, budget: Budget) -> Explanation: ...


class _Assignment(NamedTuple):
    """With what a request is scored, for the core."""

    model: Any
    """The arm's, in the core's form."""
    name: str | None
    """The arm's, if there are several."""
    slot: int
    """The arm's, if there are several, or 0."""
    epochs: Sequence[int] | None
    """The current ones, if rows are in arenas."""
    live: Callable[[str | None, Sequence[str]], object] | None
    reads_texts: bool
    """Whether texts of ads without a row are encoded."""
    terms: Sequence[float] | None
    """Those of the correction."""
    correction: Correction | None
    """This and the arm are for Python, to which the core returns the assignment."""
    arm: Arm


class _Looked(NamedTuple):
    """What is to be known of a frame before it is another request's: what the request lacks; or what followers learn,
    and what an explanation starts from."""

    lacking: CheckedRequest | None = None
    served: Served | None = None
    explained: Explained | None = None


class _Found(NamedTuple):
    """What a scoring thread found out."""

    fate: int
    assignment: _Assignment
    looked: _Looked | None
    reply: bytes
    candidates: int
    stages: tuple[float, float, float, float, float]
    """Seconds of parse, rows, queue, run and reply."""
    ready_at: float
    """When the reply was ready."""
    degraded: tuple[UserRung | None, dict[Rung, int]]


class Way:
    """The way of one request: through the queue once, and again if it lacks something. A job of the engine."""

    __slots__ = (
        *("admitted", "arm", "deployment", "explains", "given", "is_followed", "native", "raw", "step", "tell", "told"),
    )

    def __init__(self, deployment: Deployment, raw: RawRequest, tell: Told) -> None:
        self.deployment, self.raw, self.tell = deployment, raw, tell
        self.admitted: Admitted | None = None
        self.arm: Arm | None = None if deployment.is_split else deployment.arms[0]
        """The user's, once the request is read."""
        self.given: Given | None = None
        self.explains: Explain | None = None
        """What explains its scores, once that is accepted."""
        self.is_followed = False
        self.native: Any = None
        self.step: asyncio.Task[Answer | None] | None = None
        """What it waits for outside the queue."""
        self.told: Callable[[Any], None] | None = None

    @property
    def first(self) -> Any:  # noqa: ANN401 - the core has no types
        """The model that reads the request, in the core's form."""
        return (self.arm or self.deployment.arms[0]).model.native.loaded

    @property
    def known_arm(self) -> Arm:
        assert self.arm is not None, "the request was read"
        return self.arm

    def outcome(self, metrics: Metrics) -> _Found | BaseException:
        ending, result, queued_at, *_ = self.native.take_outcome()
        error = error_of(ending, result)
        if isinstance(error, DeadlineExceeded):
            # Which part waited.
            before, within = queued_at - self.raw.began, time.perf_counter() - queued_at
            return DeadlineExceeded(f"{error} ({1000 * before:.0f} ms until it was queued, {1000 * within:.0f} since)")
        return error or _Found(*result)


class Pipeline:
    """Scores requests, each with the model of its user's arm. For the event loop."""

    def __init__(
        self,
        engine: ScoringEngine,
        frames: Frames,
        explainer: Explain,
        explore_share: float,
        corrections: WatchedCorrections | None = None,
        followers: Sequence[Follower] = (),
        shadowing: Follower | None = None,
    ) -> None:
        """`explore_share`: of the requests that explore, at most. `shadowing` follows deployments that have shadows."""
        self._engine = engine
        self._frames = frames
        self._explainer = explainer
        self._explore_share = explore_share
        self._corrections = corrections
        self._followers = followers
        self._shadowing = shadowing
        self.parser = JsonParser(frames.max_candidates)

    def check(self, deployment: Deployment, size: int, budget: Budget) -> None:
        """Raise Overloaded, DeadlineExceeded or ClientGone if a body of `size` bytes need not be parsed."""
        rows, champion = self._engine.rows_in(size), deployment.champion
        self._engine.check_unread(champion.runner.load_of(rows), budget.deadline)
        self._engine.check_wanted(*budget)

    def plan(self, deployment: Deployment) -> tuple[object, ...]:
        """Return with what requests are scored without the event loop, for the core: the model that reads them; an
        assignment, or what returns one; whether that needs the user; what says whether a request is followed, if some
        may be; and what is called with each that is."""
        arm = deployment.arms[0]
        rows = arm.model.native.rows
        changes = deployment.is_split or self._corrections is not None or rows is None or rows.epochs is not None
        return (
            arm.model.native.loaded,
            partial(self._assigned, deployment) if changes else self._assignment(deployment, arm),
            deployment.is_split,
            partial(self._wants_seen, deployment) if self._followers_of(deployment) else None,
            partial(self._seen, deployment),
        )

    def follow(self, seen: tuple[Deployment, Served | None]) -> None:
        """Let followers learn of a request that is answered."""
        for follower in self._followers_of(seen[0]):
            follower.follow(*seen)

    def _begin(self, deployment: Deployment, raw: RawRequest, tell: Told) -> Way:
        """Put the request into the queue. Raises Overloaded."""
        way = Way(deployment, raw, tell)
        way.is_followed = self._wants(deployment, raw.request_id)
        rows = self._engine.rows_in(len(raw.body))
        way.admitted = self._engine.enter(deployment.champion.runner.load_of(rows), raw.budget.deadline)
        try:
            self._put(way)
        except BaseException:
            self._engine.release(way.admitted)
            raise
        return way

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer:
        """Score a request. Raises Overloaded, RequestError, DeadlineExceeded, ModelError and ClientGone.

        A failing store raises nothing: it degrades the scores. Nor does a near deadline: candidates that cannot be
        scored before it get the prior.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        way = self._begin(deployment, raw, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            if way.step is None:
                self._engine.cancel(way)
            else:
                way.step.cancel()
            raise

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        if self._shadowing is None or not deployment.shadows:
            return self._followers
        return (self._shadowing, *self._followers)

    def _put(self, way: Way) -> None:
        """Put the request into the queue, as the last of a step."""
        raw, given = way.raw, way.given
        assert way.admitted is not None, "it was let in"
        way.native = way.first.job(
            raw.body,
            raw.request_id,
            self._frames.max_candidates,
            way.admitted.load.rows,
            raw.budget.deadline,
            raw.began,
            partial(self._assign, way) if way.arm is None else self._assignment(way.deployment, way.arm),
            given and (*given_rows(given.user, given.items), given.at, given.seconds),
            partial(self._look, way),
            way.is_followed,
            way.explains is not None,
            raw.budget.is_gone,
        )
        self._engine.put(way, partial(self._done, way))
        way.step = None

    def _assignment(self, deployment: Deployment, arm: Arm) -> _Assignment:
        model, live = arm.model, self._frames.live
        rows = model.native.rows
        correction = self._corrections.of(model) if self._corrections else None
        return _Assignment(
            model.native.loaded,
            arm.name if deployment.is_split else None,
            arm.slot if deployment.is_split else 0,
            None if rows is None or rows.epochs is None else rows.epochs(),
            None if live is None else partial(live.cached, model.schema),
            self._frames.reads_texts(model),
            None if correction is None else tuple(correction.values),
            correction,
            arm,
        )

    # In a scoring thread

    def _assign(self, way: Way, user_id: str) -> _Assignment:
        assignment = self._assigned(way.deployment, user_id, way.raw.request_id)
        way.arm = assignment.arm
        return assignment

    def _assigned(self, deployment: Deployment, user_id: str, request_id: str) -> _Assignment:
        # The request's ID assigns anonymous users to arms.
        return self._assignment(deployment, deployment.arm_of(user_id or request_id))

    def _wants(self, deployment: Deployment, request_id: str) -> bool:
        return any([follower.wants(deployment, request_id) for follower in self._followers_of(deployment)])

    def _wants_seen(self, deployment: Deployment, request_id: str) -> bool:
        if not (wants := self._wants(deployment, request_id)):
            self.follow((deployment, None))
        return wants

    def _look(
        self,
        way: Way,
        core: Any,  # noqa: ANN401
        tensors: Tensors,
        ran: int,
        taken: Taken,
        assignment: _Assignment,
    ) -> _Looked:
        """Return what is to be known of a frame; `ran`: candidates in the run, 0 if the request lacks something."""
        frame = frame_of(assignment.arm.model, core, tensors)
        if not ran:
            return _Looked(frame.asked)
        served = _served(way, frame, ran, taken, assignment) if way.is_followed else None
        return _Looked(None, served, self._explained(frame, ran, assignment) if way.explains else None)

    def _seen(
        self,
        deployment: Deployment,
        core: Any,  # noqa: ANN401
        tensors: Tensors,
        ran: int,
        taken: Taken,
        assignment: _Assignment,
        request_id: str,
        body: bytes,
        began: float,
    ) -> tuple[Deployment, Served]:
        """Return what followers learn of a request that is scored without the event loop."""
        way = Way(deployment, RawRequest(request_id, body, began, _UNBOUNDED), lambda outcome: None)
        return deployment, _served(way, frame_of(assignment.arm.model, core, tensors), ran, taken, assignment)

    def _explained(self, frame: Frame, ran: int, assignment: _Assignment) -> Explained:
        """Return what an explanation starts from."""
        core, model, correction = frame.core, assignment.arm.model, assignment.correction
        tensors, pctr, shown, order = frame.copied(), frame.columns[HEAD], core.shown, core.order
        return Explained(
            tensors, self._frames.unknown(model, core.at), pctr, correction, shown, order, ran < core.count
        )

    # Back in the event loop

    def _done(self, way: Way, found: _Found | BaseException) -> None:
        if isinstance(found, BaseException):
            self._end(way, found)
        elif found.fate == _SCORED:
            self._scored(way, found)
        elif found.fate == _LACKING:
            assert found.looked is not None, "what it lacks was looked for"
            assert found.looked.lacking is not None, "what it lacks was looked for"
            self._go_on(way, self._fetch(way, found.looked.lacking))
        elif found.fate == _ASKING:
            self._go_on(way, self._accept(way))
        elif found.fate == _REFUSED:
            self._go_on(way, self._refuse(way))
        else:
            self._end(way, ModelError("the model returned a non-finite score for this request"))

    def _scored(self, way: Way, found: _Found) -> None:
        looked = found.looked or _Looked()
        try:
            answer = _answer(way, found, looked.served)
            self._engine.read(len(way.raw.body), answer.candidates)
        except BaseException as error:
            self._end(way, error)
            raise
        if looked.explained is None:
            self._end(way, answer)
        else:
            self._go_on(way, self._explain(way, answer, looked.explained))

    def _go_on(self, way: Way, step: Coroutine[Any, Any, Answer | None]) -> None:
        """Take a step that may wait; its answer or its error ends the request, else it is in the queue again."""
        way.step = asyncio.get_running_loop().create_task(step)
        way.step.add_done_callback(partial(self._stepped, way))

    def _stepped(self, way: Way, step: asyncio.Task[Answer | None]) -> None:
        if step.cancelled():
            self._end(way, asyncio.CancelledError())
        elif (outcome := step.exception() or step.result()) is not None:
            self._end(way, outcome)

    def _end(self, way: Way, outcome: Answer | BaseException) -> None:
        if way.explains is not None:
            way.explains.end()
        if way.admitted is not None:
            self._engine.release(way.admitted)
        way.tell(outcome)

    async def _fetch(self, way: Way, request: CheckedRequest) -> None:
        """Fetch what a request lacks, and put it into the queue again."""
        way.given = await self._frames.fetch(way.known_arm.model, request, way.raw.budget.deadline)
        self._put(way)

    async def _accept(self, way: Way) -> None:
        self._explainer.begin()
        way.explains = self._explainer
        self._put(way)

    async def _explain(self, way: Way, answer: Answer, explained: Explained) -> Answer:
        """Explain scores, and add that to the reply."""
        explanation = await self._explainer.explain(way.known_arm.model, explained, way.raw.budget)
        reply = with_explanation(answer.body, explanation, explained.order)
        taken = (*answer.stages[:-1], time.perf_counter() - way.raw.began)
        return answer._replace(headers=headers_of(reply, taken, explanation.seconds), body=reply)

    async def _refuse(self, way: Way) -> Answer:
        """Raise the error of a request that the core refuses."""
        raise await self.parser.parse(way.raw.body, partial(self._refusal, way))

    def _refusal(self, way: Way, body: bytes) -> Exception:
        deployment, request_id, most = way.deployment, way.raw.request_id, self._frames.max_candidates
        try:
            request = parse_request_by(body, lambda user_id: deployment.schema_of(user_id or request_id), most)
            model = deployment.arm_of(request.user_id or request_id).model
            check_pricing(request, model.bundle.manifest.formula)
            if request.explore is not None:
                exploration_of(request.explore, request_id, self._explore_share)
        except RequestError as error:
            return error
        return RuntimeError("the native core refuses a request that msd.contract accepts")


def _answer(way: Way, found: _Found, served: Served | None) -> Answer:
    user_rung, rungs = found.degraded
    degraded = {str(rung): count for rung, count in rungs.items()}
    if user_rung is not None:
        degraded[f"user_{user_rung}"] = 1
    headers = headers_of(found.reply, (*found.stages[:4], found.ready_at - way.raw.began))
    return Answer(headers, found.reply, found.candidates, degraded, found.stages, way.deployment, served)


def _served(way: Way, frame: Frame, ran: int, taken: Taken, assignment: _Assignment) -> Served:
    """Return what followers learn of a request."""
    core, arm, model = frame.core, assignment.arm, assignment.arm.model
    user, items = (way.given.user, way.given.items) if way.given else frame.kept(model)
    return Served(
        way.raw.request_id,
        time.time(),
        arm.name,
        arm.share,
        arm is way.deployment.arms[0],
        model,
        way.raw.body,
        Basis(core.at, user, items, ran, ran < core.count),
        frame.columns,
        core.rungs,
        core.user_rung,
        assignment.correction,
        frame.choice,
        frame.copied(_DENSE & frame.tensors.keys()),
        (*taken, time.perf_counter() - way.raw.began),
    )
