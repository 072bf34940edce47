"""Scores requests: what jobs are scored with, what is fetched for those that lack something, and the way of a request
that Python puts in itself.

The native core reads, fills, runs and replies without Python's lock (`native/engine/scoring_job.hpp`). Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import native
from msd.contract.assemble import Rung, Tensors, UserRung
from msd.contract.correction import HEAD, Correction
from msd.contract.exploration import exploration_of
from msd.contract.request import RequestError, check_pricing, parse_request_by
from native.layout import asked_request, given_rows
from service.errors import DeadlineExceeded, ModelError
from service.json_parser import JsonParser
from service.scoring.answer import (
    Answer,
    Basis,
    Budget,
    Explained,
    Follower,
    RawRequest,
    Seen,
    Served,
    Translate,
    headers_of,
)
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import ScoringEngine, error_of
from service.scoring.frames import Frame, Frames, Given, frame_of
from service.scoring.model import Model, WatchedCorrections
from service.scoring.reply import Explanation, with_explanation
from service.telemetry.metrics import Metrics

_DENSE = {"user_dense", "item_dense", "context_dense"}
# How a request fares that a thread has read.
_SCORED, _REFUSED, _ASKING, _LACKING, _NOT_FINITE = range(5)
Taken = tuple[float, float, float, float]
"""Seconds of parse, rows, queue and run."""


class Explain(Protocol):
    """Explains scores, within a budget of its own."""

    def begin(self) -> None:
        """Accept one explanation until `end`. Raises Overloaded, InvalidRequest."""
        ...

    def end(self) -> None: ...

    async def explain(self, model: Model, explained: Explained, budget: Budget) -> Explanation: ...


class Assignment(NamedTuple):
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


class _Found(NamedTuple):
    """What a scoring thread found out."""

    fate: int
    assignment: Assignment
    looked: Any
    """What is to be known of a scored request, if something is; or what it lacks, for `Pipeline.provide`."""
    reply: bytes
    candidates: int
    stages: tuple[float, float, float, float, float]
    """Seconds of parse, rows, queue, run and reply."""
    ready_at: float
    """When the reply was ready."""
    degraded: tuple[UserRung | None, dict[Rung, int]]


class _AskedJob:
    """A request that Python has put in."""

    __slots__ = ("began", "future", "native")

    def __init__(self, core: object, began: float) -> None:
        self.native: Any = core
        self.began = began
        self.future: asyncio.Future[_Found] | None = None

    def outcome(self, metrics: Metrics) -> _Found | BaseException:
        ending, result, queued_at, *_ = self.native.take_outcome()
        error = error_of(ending, result)
        if isinstance(error, DeadlineExceeded):
            # Which part waited.
            before, within = queued_at - self.began, time.perf_counter() - queued_at
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

    def plan(self, deployment: Deployment, translate: Translate | None = None) -> Any:  # noqa: ANN401 - the core has no types
        """Return with what requests are scored, for the core: the model that reads them; an assignment, or what returns
        one; whether that needs the user; what says whether a request is followed, if some may be; what is called with
        what is to be known of a scored one; and what translates requests of other forms."""
        assert native.core is not None, "there is an engine"
        arm = deployment.arms[0]
        rows = arm.model.native.rows
        changes = deployment.is_split or self._corrections is not None or rows is None or rows.epochs is not None
        return native.core.Plan(
            arm.model.native.loaded,
            partial(self._assigned, deployment) if changes else self._assignment(deployment, arm),
            deployment.is_split,
            partial(self._wants, deployment) if self._followers_of(deployment) else None,
            partial(self._look, deployment),
            translate,
        )

    def follow(self, seen: Seen) -> None:
        """Let followers learn of a request that is answered."""
        for follower in self._followers_of(seen.deployment):
            follower.follow(seen.deployment, seen.served)

    async def provide(self, job: Any, assignment: Assignment, asked: tuple[Any, ...], deadline: float) -> None:  # noqa: ANN401
        """Fetch what a job lacks, and let it go on. Raises nothing for a failing store, which degrades the scores."""
        given = await self._frames.fetch(assignment.arm.model, asked_request(asked), deadline)
        job.go_on((*given_rows(given.user, given.items), given.at, given.seconds, given))

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer:
        """Score a request. Raises Overloaded, RequestError, DeadlineExceeded, ModelError and ClientGone.

        A failing store raises nothing: it degrades the scores. Nor does a near deadline: candidates that cannot be
        scored before it get the prior.
        """
        deadline, is_gone = raw.budget
        rows = self._engine.rows_in(len(raw.body))
        admitted = self._engine.enter(deployment.champion.runner.load_of(rows, raw.key), deadline)
        is_explained = False
        try:
            most = self._frames.max_candidates
            core = self.plan(deployment).job(raw.body, raw.request_id, most, rows, deadline, raw.began, is_gone)
            job = _AskedJob(core, raw.began)
            while (found := await self._engine.do(job)).fate in (_ASKING, _LACKING):
                if found.fate == _LACKING:
                    await self.provide(core, found.assignment, found.looked, deadline)
                else:
                    self._explainer.begin()
                    is_explained = True
                    core.go_on(None)
            if found.fate == _REFUSED:
                raise await self.parser.parse(raw.body, partial(self._refusal, deployment, raw.request_id))
            if found.fate == _NOT_FINITE:
                raise ModelError("the model returned a non-finite score for this request")
            self._engine.read(len(raw.body), found.candidates)
            return await self._explained(_answer(raw, found), found, raw)
        finally:
            if is_explained:
                self._explainer.end()
            self._engine.release(admitted)

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        if self._shadowing is None or not deployment.shadows:
            return self._followers
        return (self._shadowing, *self._followers)

    def _assignment(self, deployment: Deployment, arm: Arm) -> Assignment:
        model, live = arm.model, self._frames.live
        rows = model.native.rows
        correction = self._corrections.of(model) if self._corrections else None
        return Assignment(
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

    async def _explained(self, answer: Answer, found: _Found, raw: RawRequest) -> Answer:
        """Return the answer, with an explanation if the request has one."""
        seen: Seen | None = found.looked
        if seen is None or seen.explained is None:
            return answer
        explanation = await self._explainer.explain(found.assignment.arm.model, seen.explained, raw.budget)
        reply = with_explanation(answer.body, explanation, seen.explained.order)
        taken = (*answer.stages[:-1], time.perf_counter() - raw.began)
        return answer._replace(headers=headers_of(reply, taken, explanation.seconds), body=reply)

    def _refusal(self, deployment: Deployment, request_id: str, body: bytes) -> Exception:
        """Return the error of a request that the core refuses."""
        try:
            request = parse_request_by(
                body, lambda user_id: deployment.schema_of(user_id or request_id), self._frames.max_candidates
            )
            model = deployment.arm_of(request.user_id or request_id).model
            check_pricing(request, model.bundle.manifest.formula)
            if request.explore is not None:
                exploration_of(request.explore, request_id, self._explore_share)
        except RequestError as error:
            return error
        return RuntimeError("the native core refuses a request that msd.contract accepts")

    # In a scoring thread

    def _assigned(self, deployment: Deployment, user_id: str, request_id: str) -> Assignment:
        # The request's ID assigns anonymous users to arms.
        return self._assignment(deployment, deployment.arm_of(user_id or request_id))

    def _wants(self, deployment: Deployment, request_id: str) -> bool:
        wants = any([follower.wants(deployment, request_id) for follower in self._followers_of(deployment)])
        if not wants:
            self.follow(Seen(deployment))
        return wants

    def _look(
        self,
        deployment: Deployment,
        core: Any,  # noqa: ANN401
        tensors: Tensors,
        ran: int,
        taken: Taken,
        assignment: Assignment,
        request_id: str,
        body: bytes,
        began: float,
        given: Given | None,
        is_followed: bool,
        is_explained: bool,
    ) -> Seen:
        """Return what is to be known of a scored request before its frame is another's. `ran`: candidates run."""
        frame, arm = frame_of(assignment.arm.model, core, tensors), assignment.arm
        explained = self._to_explain(frame, ran, assignment) if is_explained else None
        if not is_followed:
            return Seen(deployment, None, explained)
        user, items = (given.user, given.items) if given else frame.kept(arm.model)
        served = Served(
            request_id,
            time.time(),
            arm.name,
            arm.share,
            arm is deployment.arms[0],
            arm.model,
            body,
            Basis(core.at, user, items, ran, ran < core.count),
            frame.columns,
            core.rungs,
            core.user_rung,
            assignment.correction,
            frame.choice,
            frame.copied(_DENSE & tensors.keys()),
            (*taken, time.perf_counter() - began),
        )
        return Seen(deployment, served, explained)

    def _to_explain(self, frame: Frame, ran: int, assignment: Assignment) -> Explained:
        """Return what an explanation starts from."""
        core, model, correction = frame.core, assignment.arm.model, assignment.correction
        tensors, pctr, shown, order = frame.copied(), frame.columns[HEAD], core.shown, core.order
        return Explained(
            tensors, self._frames.unknown(model, core.at), pctr, correction, shown, order, ran < core.count
        )


def _answer(raw: RawRequest, found: _Found) -> Answer:
    user_rung, rungs = found.degraded
    degraded = {str(rung): count for rung, count in rungs.items()}
    if user_rung is not None:
        degraded[f"user_{user_rung}"] = 1
    headers = headers_of(found.reply, (*found.stages[:4], found.ready_at - raw.began))
    seen = found.looked if found.looked is not None and found.looked.served is not None else None
    return Answer(headers, found.reply, found.candidates, degraded, found.stages, seen)
