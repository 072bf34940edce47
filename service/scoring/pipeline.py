"""The way of a scoring request, from its body to its reply's: one job of one scoring thread reads, fills, runs and
replies, by the native core without Python's lock, except for the call of the run.

Rows that are not in memory are fetched in the event loop, and the request goes into the queue again. Knows no HTTP.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Rung, UserRung
from msd.contract.correction import HEAD, Correction
from msd.contract.exploration import Choice, exploration_of
from msd.contract.request import CheckedRequest, RequestError, check_pricing, parse_request_by
from msd.contract.uncertainty import COLUMN, impressions_of
from service.errors import DeadlineExceeded, ModelError
from service.rows.store import CoreFound
from service.runtimes.runtime import Scores
from service.scoring.answer import Answer, Basis, Budget, Explained, Follower, RawRequest, Served, headers_of
from service.scoring.deployment import Arm, Deployment
from service.scoring.engine import PLANNED, Admitted, Done, Job, ScoringEngine, settle
from service.scoring.frames import Frame, Frames, Given
from service.scoring.model import Model, WatchedCorrections
from service.scoring.reply import Explanation, with_explanation
from service.telemetry.metrics import STAGES, Explored, Metrics, Tier

_DENSE = {"user_dense", "item_dense", "context_dense"}
Told = Callable[[Answer | BaseException], None]
"""Called in the loop with a request's outcome."""
Send = Callable[[list[tuple[bytes, bytes]], bytes], None]


class Explain(Protocol):
    """Explains scores, within a budget of its own."""

    def begin(self) -> None:
        """Accept one explanation until `end`. Raises Overloaded, InvalidRequest."""
        ...

    def end(self) -> None: ...

    async def explain(self, model: Model, explained: Explained, budget: Budget) -> Explanation: ...


class _Refused(NamedTuple):
    """A request that `msd.contract` refuses."""


class _Lacking(NamedTuple):
    """As much of a request as says what has to be fetched before it can be scored."""

    request: CheckedRequest


class _Asking(NamedTuple):
    """A request for an explanation, which is not accepted yet."""


class _Run(NamedTuple):
    """Scores of the first `ran` candidates and, if these are not all, behind them of an unknown one: `rows` in all."""

    scores: Scores
    ran: int
    rows: int
    seconds: float


class _Scored(NamedTuple):
    """An answer, the sources of its rows if the core found them, the candidates in its run, and what was degraded."""

    answer: Answer
    tier: Tier | None
    found: CoreFound | None
    rows: int
    rungs: dict[Rung, int]
    user_rung: UserRung | None
    choice: Choice | None
    explained: Explained | None


_Outcome = _Scored | _Lacking | _Asking | _Refused


class Way:
    """The way of one request: through the queue once, and again if it lacks something."""

    __slots__ = ("admitted", "arm", "deployment", "explains", "given", "is_followed", "job", "raw", "send", "told")

    job: Job[_Outcome]

    def __init__(self, deployment: Deployment, raw: RawRequest, told: Told, send: Send | None) -> None:
        self.deployment, self.raw, self.told, self.send = deployment, raw, told, send
        self.admitted: Admitted | None = None
        self.arm: Arm = deployment.arms[0]
        """The user's, once the request is read."""
        self.given: Given | None = None
        self.explains: Explain | None = None
        """What explains its scores, once that is accepted."""
        self.is_followed = False


class Pipeline:
    """Scores requests, each with the model of its user's arm. For the event loop."""

    def __init__(
        self,
        engine: ScoringEngine,
        metrics: Metrics,
        frames: Frames,
        explainer: Explain,
        explore_share: float,
        corrections: WatchedCorrections | None = None,
        followers: Sequence[Follower] = (),
        shadowing: Follower | None = None,
    ) -> None:
        """`explore_share`: of the requests that explore, at most. `shadowing` follows deployments that have shadows."""
        self._engine = engine
        self._metrics = metrics
        self._frames = frames
        self._explainer = explainer
        self._explore_share = explore_share
        self._corrections = corrections
        self._followers = followers
        self._shadowing = shadowing
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, deployment: Deployment, size: int, budget: Budget) -> None:
        """Raise Overloaded, DeadlineExceeded or ClientGone if a body of `size` bytes need not be parsed."""
        rows, champion = self._engine.rows_in(size), deployment.champion
        self._engine.check_unread(champion.runner.load_of(rows), budget.deadline)
        self._engine.check_wanted(*budget)

    def begin(self, deployment: Deployment, raw: RawRequest, told: Told, send: Send | None = None) -> Way:
        """Put the request into the queue; `send` is called with the reply in the scoring thread.

        Raises Overloaded.
        """
        way = Way(deployment, raw, told, send)
        way.is_followed = any(one.wants(deployment, raw.request_id) for one in self._followers_of(deployment))
        rows = self._engine.rows_in(len(raw.body))
        way.admitted = self._engine.enter(deployment.champion.runner.load_of(rows), raw.budget.deadline)
        try:
            self._put(way)
        except BaseException:
            self._engine.release(way.admitted)
            raise
        return way

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer:
        """As `begin`, for a caller that waits. Raises RequestError, DeadlineExceeded, ModelError and ClientGone too.

        A failing store raises nothing: it degrades the scores. Nor does a near deadline: candidates that cannot be
        scored before it get the prior.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        way = self.begin(deployment, raw, partial(settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            self._engine.cancel(way.job)
            raise

    def leave(self, way: Way) -> None:
        """Drop a request whose client has left, unless it runs."""
        self._engine.leave(way.job)

    def follow(self, answer: Answer) -> None:
        for follower in self._followers_of(answer.deployment):
            follower.follow(answer)

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        if self._shadowing is None or not deployment.shadows:
            return self._followers
        return (self._shadowing, *self._followers)

    def _put(self, way: Way) -> None:
        runner, budget = way.arm.model.runner, way.raw.budget
        assert way.admitted is not None, "it was let in"
        rows = way.admitted.load.rows
        way.job = Job(lambda: self._work(way), runner, rows, budget.deadline, budget.is_gone, is_run=False)
        self._engine.put(way.job, partial(self._done, way))

    # In a scoring thread

    def _work(self, way: Way) -> _Outcome:
        job, deployment, raw = way.job, way.deployment, way.raw
        queue_s = time.perf_counter() - job.native.queued_at
        if deployment.is_split and way.given is None:
            core = self._frames.of(way.arm.model).core
            if not core.read(raw.body, self._frames.max_candidates):
                return _Refused()
            # The request's ID assigns anonymous users to arms.
            way.arm = deployment.arm_of(core.user_id or raw.request_id)
        outcome = self._score(way, queue_s)
        if isinstance(outcome, _Scored):
            job.native.ran(way.arm.model.runner.native, outcome.rows)
            if way.send is not None and way.explains is None and job.native.answer():
                way.send(outcome.answer.headers, outcome.answer.body)
        return outcome

    def _score(self, way: Way, queue_s: float) -> _Outcome:
        """Score a request, or say what prevents it.

        Raises DeadlineExceeded if there is no time for a run, ModelError for a non-finite score, or what the model
        raises.
        """
        model, raw = way.arm.model, way.raw
        frame, outcome = self._frames.take(model, raw.body, way.given, keeps_rows=way.is_followed)
        core = frame.core
        if outcome == "unread":
            return _Refused()
        if core.explains and way.explains is None:
            return _Asking()
        if outcome == "lacking":
            return _Lacking(frame.asked)
        run = self._run(model, frame, raw.budget)
        ended = time.perf_counter()
        correction = self._corrections.of(model) if self._corrections else None
        arm = way.arm.name if way.deployment.is_split else None
        terms = None if correction is None else tuple(correction.values)
        try:
            reply: bytes = core.reply(raw.request_id, arm, run.scores, run.ran, terms)
        except ValueError as error:
            raise ModelError("the model returned a non-finite score for this request") from error
        parse_s, rows_s = core.seconds
        rows_s += way.given.seconds if way.given else 0.0
        now = time.perf_counter()
        taken = (parse_s, rows_s, queue_s, run.seconds)
        user_rung, rungs = core.degraded
        degraded = dict(rungs) if user_rung is None else {**rungs, f"user_{user_rung}": 1}
        served = explained = None
        if way.is_followed:
            served = _served(way, frame, run, correction, (*taken, now - raw.began))
        found = None if way.given else CoreFound(*core.found)
        choice, stages = frame.choice, (*taken, now - ended)
        headers, count = headers_of(reply, (*taken, now - raw.began)), core.count
        if way.explains is not None:
            explained = self._explained(model, frame, run, correction)
        answer = Answer(headers, reply, count, degraded, stages, way.deployment, served)
        tier = frame.rows.tier if frame.rows else None
        return _Scored(answer, tier, found, run.rows, rungs, user_rung, choice, explained)

    def _run(self, model: Model, frame: Frame, budget: Budget) -> _Run:
        """Run the model on all candidates, or on the first ones and an unknown one if time is short."""
        core, runner = frame.core, model.runner
        started = time.perf_counter()
        rows: int = runner.native.fitting(core.count, PLANNED * (budget.deadline - started))
        if not rows:
            raise DeadlineExceeded("deadline exceeded: too little time left for one model run")
        ran = core.count if rows == core.count else rows - 1
        if ran < core.count:
            core.cut(ran)
        tensors = frame.first(rows)
        scores = {head: _contiguous(column) for head, column in runner.runtime.run(tensors).items()}
        seconds = time.perf_counter() - started
        if core.explores and (uncertainty := model.bundle.manifest.uncertainty) is not None:
            scores[COLUMN] = uncertainty.logit_std(impressions_of(model.schema, tensors), scores[HEAD])
        return _Run(scores, ran, rows, seconds)

    def _explained(self, model: Model, frame: Frame, run: _Run, correction: Correction | None) -> Explained:
        """Return what an explanation starts from, and overwrite the frame."""
        core = frame.core
        tensors, pctr, shown, order = frame.copied(), frame.columns[HEAD], core.shown, core.order
        is_partial, nothing = run.ran < core.count, self._frames.unknown(model, core.at)
        return Explained(tensors, nothing, pctr, correction, shown, order, is_partial)

    # Back in the event loop

    def _done(self, way: Way, outcome: Done[_Outcome] | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._end(way, outcome)
            return
        match outcome.result:
            case _Refused():
                self._end(way, self._refusal(way))
            case _Asking():
                self._go_on(way, self._accept(way))
            case _Lacking(request):
                self._go_on(way, self._fetch(way, request))
            case _Scored() as scored:
                try:
                    self._count(way, scored)
                except BaseException as error:
                    self._end(way, error)
                    raise
                if scored.explained is None:
                    self._end(way, scored.answer)
                else:
                    self._go_on(way, self._explain(way, scored.answer, scored.explained))

    def _go_on(self, way: Way, step: Coroutine[Any, Any, Answer | None]) -> None:
        """Take a step that may wait; its answer or its error ends the request."""

        async def steps() -> None:
            outcome: Answer | BaseException | None
            try:
                outcome = await step
            except (Exception, asyncio.CancelledError) as error:
                outcome = error
            if outcome is not None:
                self._end(way, outcome)

        task = asyncio.get_running_loop().create_task(steps())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, way: Way, outcome: Answer | BaseException) -> None:
        if way.explains is not None:
            way.explains.end()
        if way.admitted is not None:
            self._engine.release(way.admitted)
        way.told(outcome)

    async def _fetch(self, way: Way, request: CheckedRequest) -> None:
        """Fetch what a request lacks, and put it into the queue again."""
        way.given = await self._frames.fetch(way.arm.model, request, way.raw.budget.deadline)
        self._put(way)

    async def _accept(self, way: Way) -> None:
        self._explainer.begin()
        way.explains = self._explainer
        self._put(way)

    async def _explain(self, way: Way, answer: Answer, explained: Explained) -> Answer:
        """Explain scores, and add that to the reply."""
        explanation = await self._explainer.explain(way.arm.model, explained, way.raw.budget)
        reply = with_explanation(answer.body, explanation, explained.order)
        taken = (*answer.stages[:-1], time.perf_counter() - way.raw.began)
        return answer._replace(headers=headers_of(reply, taken, explanation.seconds), body=reply)

    def _refusal(self, way: Way) -> Exception:
        """Return the error of a request that the core refuses."""
        deployment, request_id, most = way.deployment, way.raw.request_id, self._frames.max_candidates
        try:
            request = parse_request_by(way.raw.body, lambda user_id: deployment.schema_of(user_id or request_id), most)
            model = deployment.arm_of(request.user_id or request_id).model
            check_pricing(request, model.bundle.manifest.formula)
            if request.explore is not None:
                exploration_of(request.explore, request_id, self._explore_share)
        except RequestError as error:
            return error
        return RuntimeError("the native core refuses a request that msd.contract accepts")

    def _count(self, way: Way, scored: _Scored) -> None:
        answer, found, metrics = scored.answer, scored.found, self._metrics
        self._engine.read(len(way.raw.body), answer.candidates)
        if answer.deployment.is_split:
            metrics.arms[way.arm.slot].inc()
        for stage, seconds in zip(STAGES, answer.stages, strict=True):
            metrics.stages[stage].observe(seconds)
        metrics.candidates.observe(answer.candidates)
        metrics.run_rows.observe(scored.rows)
        if scored.rows < answer.candidates:
            metrics.partial.inc()
        if found is not None and scored.tier is not None:
            self._count_rows(scored.tier, found)
        metrics.degraded(scored.rungs, scored.user_rung)
        if scored.choice is not None:
            result: Explored = "explored" if scored.choice.explored else "exploited"
            metrics.explorations["unavailable" if scored.choice.policy == "greedy" else result].inc()

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
        if not math.isnan(found.live_age_s):
            metrics.live_ages.observe(found.live_age_s)


def _served(
    way: Way, frame: Frame, run: _Run, correction: Correction | None, seconds: tuple[float, float, float, float, float]
) -> Served:
    """Return what followers learn of a request."""
    core, arm, model = frame.core, way.arm, way.arm.model
    user, items = (way.given.user, way.given.items) if way.given else frame.kept(model)
    user_rung, _ = core.degraded
    return Served(
        way.raw.request_id,
        time.time(),
        arm.name,
        arm.share,
        arm is way.deployment.arms[0],
        model,
        way.raw.body,
        Basis(core.at, user, items, run.ran, run.ran < core.count),
        frame.columns,
        core.rungs,
        user_rung,
        correction,
        frame.choice,
        frame.copied(_DENSE & frame.tensors.keys()),
        seconds,
    )


def _contiguous(column: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a contiguous array: a runtime may return a slice of a larger one."""
    return column if column.flags.c_contiguous else column.copy()
