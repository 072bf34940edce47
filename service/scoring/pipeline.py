"""Scores requests: what jobs are scored with, what is fetched for those that lack something, and jobs of the app: those
that the front hands over, and those of requests that it has not read.

The native core reads, fills, runs and replies without Python's lock (`native/engine/scoring_job.hpp`). Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import native
from msd.contract.assemble import Tensors
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
    Translated,
)
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import ScoringEngine, error_of
from service.scoring.frames import Frame, Frames, Given
from service.scoring.model import Model, WatchedCorrections
from service.scoring.reply import Explanation, with_explanation
from service.telemetry.metrics import Metrics

_DENSE = {"user_dense", "item_dense", "context_dense"}
# How a request fares that a thread has read.
_SCORED, _REFUSED, _ASKING, _LACKING, _NOT_FINITE, _TIMED = range(6)
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
    corrections: Sequence[tuple[str, float, float, float]]
    """Head, centre, shift and slope of each corrected head."""
    correction: Correction | None
    """This and the arm are for Python, to which the core returns the assignment."""
    arm: Arm


class _Found(NamedTuple):
    """What a scoring thread found out."""

    fate: int
    assignment: Assignment
    looked: Any
    """What is to be known of each part of a scored request, if something is; or what a part lacks, for
    `Pipeline.provide`."""
    reply: bytes
    candidates: int
    degraded: dict[str, int]
    stages: tuple[float, float, float, float, float]
    """Seconds of parse, rows, queue, run and reply."""
    made: Translated | None
    """Of a request of another form that is not scored."""
    part: int
    """The last one that was read."""
    timeout_s: float | None
    """Until the deadline that its body sets."""
    explain_s: float | None = None


class _AppJob:
    """A job of the app."""

    __slots__ = ("began", "future", "native")

    def __init__(self, core: object, began: float) -> None:
        self.native: Any = core
        self.began = began
        self.future: asyncio.Future[_Found] | None = None

    def ended(self) -> _Found:
        """Return the outcome of a job that the front has handed over. Raises what scoring has raised."""
        ending, result, *_ = self.native.take_outcome()
        if (error := error_of(ending, result)) is not None:
            raise error
        return _Found(*result)

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
        translate: Translate | None = None,
    ) -> None:
        """`explore_share`: of the requests that explore, at most. `shadowing` follows deployments that have shadows.
        `translate`: None if there are no other forms."""
        self._engine = engine
        self._frames = frames
        self._explainer = explainer
        self._explore_share = explore_share
        self._corrections = corrections
        self._followers = followers
        self._shadowing = shadowing
        self._translate = translate
        self.parser = JsonParser(frames.max_candidates)

    def plan(self, deployment: Deployment) -> Any:  # noqa: ANN401 - the core has no types
        """Return with what requests are scored, for the core: the deployment; the model that reads them; an assignment,
        or what returns one; whether that needs the user; what says whether a request is followed, if some may be; what
        is called with what is to be known of a scored one; and what translates requests of other forms."""
        assert native.core is not None, "there is an engine"
        arm = deployment.arms[0]
        rows = arm.model.native.rows
        changes = deployment.is_split or self._corrections is not None or rows is None or rows.epochs is not None
        return native.core.Plan(
            deployment,
            arm.model.native.loaded,
            partial(self._assigned, deployment) if changes else self._assignment(deployment, arm),
            deployment.is_split,
            partial(self._wants, deployment) if self._followers_of(deployment) else None,
            partial(self._look, deployment),
            None if self._translate is None else partial(self._translate, deployment),
        )

    def job(self, deployment: Deployment, raw: RawRequest) -> Any:  # noqa: ANN401
        """Return the job of a request, for the core."""
        sent = (raw.form, raw.path, raw.json_length, raw.budget.is_own, raw.request_id, raw.body)
        rows = self._engine.rows_in(len(raw.body), raw.form)
        return self.plan(deployment).job(sent, self._frames.max_candidates, rows, raw.budget.deadline, raw.began)

    def follow(self, seen: Seen) -> None:
        """Let followers learn of a request that is answered."""
        for follower in self._followers_of(seen.deployment):
            follower.follow(seen.deployment, seen.served)

    async def provide(self, job: Any, assignment: Assignment, asked: tuple[Any, ...], deadline: float) -> None:  # noqa: ANN401
        """Fetch what a job lacks, and let it go on. Raises nothing for a failing store, which degrades the scores."""
        given = await self._frames.fetch(assignment.arm.model, asked_request(asked), deadline)
        job.go_on((*given_rows(given.user, given.items), given.at, given.seconds, given))

    async def answer(self, core: Any, raw: RawRequest) -> Answer:  # noqa: ANN401
        """Score a request by its job, unless that has ended already. Raises Overloaded, RequestError, DeadlineExceeded,
        ModelError, ClientGone, and what `translate` does.

        A failing store raises nothing: it degrades the scores. Nor does a near deadline: candidates that cannot be
        scored before it get the prior.
        """
        job = _AppJob(core, raw.began)
        found = job.ended() if core.is_claimed else await self._score(job, raw)
        if found.fate == _TIMED:
            assert found.timeout_s is not None, "its body sets the deadline"
            raw = raw._replace(budget=raw.budget._replace(deadline=raw.began + found.timeout_s))
            core.go_on(raw.budget.deadline)
            found = await self._score(job, raw)
        elif found.fate in (_ASKING, _LACKING):
            found = await self._score(job, raw, found)
        if found.fate == _REFUSED:
            raise await self._error(core.of, raw, found)
        if found.fate == _NOT_FINITE:
            raise ModelError("the model returned a non-finite score for this request")
        head: bytes = core.head(len(found.reply), found.explain_s)
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in head.splitlines())]
        seen = [one for one in found.looked if one.served is not None]
        return Answer(headers, found.reply, seen)

    async def _score(self, job: _AppJob, raw: RawRequest, found: _Found | None = None) -> _Found:
        """Score a request, and explain it if it asks for that. `found`: what it has ended with already."""
        core, deadline = job.native, raw.budget.deadline
        rows = self._engine.rows_in(len(raw.body), raw.form)
        admitted = self._engine.enter(core.of.champion.runner.load_of(rows, raw.key, raw.form), deadline)
        is_explained = False
        try:
            while found is None or found.fate in (_ASKING, _LACKING):
                if found is not None and found.fate == _LACKING:
                    await self.provide(core, found.assignment, found.looked, deadline)
                elif found is not None:
                    self._explainer.begin()
                    is_explained = True
                    core.go_on(None)
                core.end_if(raw.budget.is_gone)
                found = await self._engine.do(job)
            if found.fate == _SCORED:
                self._engine.read(len(raw.body), found.candidates, raw.form)
            return await self._explained(found, raw) if is_explained and found.fate == _SCORED else found
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
            () if correction is None else correction.lines,
            correction,
            arm,
        )

    async def _explained(self, found: _Found, raw: RawRequest) -> _Found:
        """Return a scored request with an explanation."""
        (seen,) = found.looked
        explanation = await self._explainer.explain(found.assignment.arm.model, seen.explained, raw.budget)
        reply = with_explanation(found.reply, explanation, seen.explained.order)
        return found._replace(reply=reply, explain_s=explanation.seconds)

    async def _error(self, deployment: Deployment, raw: RawRequest, found: _Found) -> Exception:
        """Return the error of a request that the core refuses, by its place in the request's own form."""
        made, part = found.made, found.part
        request_id, body = (raw.request_id, raw.body) if made is None else made.parts[part]
        if made is not None:
            await self.parser.parse(raw.body, made.check)
        error = await self.parser.parse(body, partial(self._refusal, deployment, request_id))
        if made is not None and isinstance(error, RequestError):
            error.field = made.place_of(part, error.field or "")
        return error

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
        run: tuple[int, bool],
        taken: Taken,
        assignment: Assignment,
        request_id: str,
        body: bytes,
        began: float,
        given: Given | None,
        is_followed: bool,
        is_explained: bool,
    ) -> Seen:
        """Return what is to be known of a scored request before its frame is another's. `run`: how many of its first
        candidates were in the run, and whether other requests' were too."""
        frame, arm = Frame(core, tensors), assignment.arm
        ran, is_shared = run
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
            Basis(core.at, user, frame.of_request(items), ran, ran < core.count, is_shared),
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
