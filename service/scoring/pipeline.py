"""From a request's body to its reply's body: parse, rows, tensors, one run of the model, reply. Errors are raised.

Knows no HTTP. Live rows, vectors of cold ads, explanations and followers attach through the protocols below.
"""

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
import structlog

from msd.contract.assemble import Tensors, assemble, cut, wanted_items
from msd.contract.correction import HEAD
from msd.contract.request import ANONYMOUS, CheckedRequest, check_pricing, parse_request_by
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.uncertainty import COLUMN, impressions_of
from service.errors import ModelError, StoreError
from service.scoring.answer import Answer, Basis, Budget, RawRequest, Scored, Served
from service.scoring.deployment import Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.exploration import exploration_of, first_of
from service.scoring.model import Model, WatchedCorrections
from service.scoring.plain import PlainScoring, headers_of
from service.scoring.reply import Explanation, build_reply, declared, spread
from service.telemetry.metrics import Explored, Metrics

# Seconds between two log lines about failed reads.
_SAY_AGAIN_S = 1.0

RowsOf = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]
Score = Callable[[], Awaitable[Scored]]
Explain = Callable[[Model, CheckedRequest, Budget, Score], Awaitable[tuple[Scored, Explanation]]]
"""Scores a request and explains the scores; or refuses to before it is scored."""
FetchLive = Callable[[FeatureSchema, CheckedRequest, float, RowsOf, float], Awaitable[tuple[Rows, Rows]]]
"""Returns the rows of the user, and of candidates and history (`wanted_items`), as of a time, before a deadline."""
Fill = Callable[[Model, CheckedRequest, Rows, float], Awaitable[Rows]]
"""Returns the rows of `wanted_items`, adding those of candidates without one that can be made before a deadline."""


class Pipeline:
    """Scores requests, each with the model of its user's arm. Deadlines are of `time.perf_counter`."""

    def __init__(
        self,
        engine: ScoringEngine,
        metrics: Metrics,
        max_candidates: int,
        *,
        fetch_live: FetchLive | None = None,
        fill: Fill | None = None,
        explain: Explain | None = None,
        corrections: WatchedCorrections | None = None,
        explore_share: float = 0.0,
    ) -> None:
        """`max_candidates`: of one request. `explore_share`: of the requests that explore, at most."""
        self._engine = engine
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._plain: PlainScoring | None = None
        self._fetch_live = fetch_live
        self._fill = fill
        self._explain = explain
        self._corrections = corrections
        self._explore_share = explore_share
        self._log = structlog.get_logger("msd.scorer")
        self._unsaid = 0
        self._say_again_at = 0.0

    def led_by(self, plain: PlainScoring) -> Self:
        """Return a pipeline in which the native core may score first, and followers get replies."""
        led = copy(self)
        led._plain = plain
        return led

    def check(self, deployment: Deployment, size: int, budget: Budget) -> None:
        """Raise Overloaded, DeadlineExceeded or ClientGone if a body of `size` bytes need not be parsed."""
        rows, champion = self._engine.rows_in(size), deployment.champion
        self._engine.check_unread(champion.runner.load_of(rows), budget.deadline)
        self._engine.check_wanted(*budget)

    async def answer(self, deployment: Deployment, raw: RawRequest) -> Answer:
        """Raise RequestError, and what `score` raises."""
        if self._plain is not None and not raw.skips_native and self._plain.wants(deployment, raw):
            answer = await self._plain.answer(deployment, raw)
            if answer is not None:
                return answer
        return await self._score_in_python(deployment, raw)

    def follow(self, answer: Answer) -> None:
        if self._plain is not None:
            self._plain.follow(answer)

    async def score(self, model: Model, request: CheckedRequest, budget: Budget) -> Scored:
        """Score a request. Raises Overloaded, DeadlineExceeded, ModelError or ClientGone.

        A failing store raises nothing: it degrades the scores. Nor does a near deadline: candidates that cannot be
        scored before it get the prior.
        """
        rows, deadline = len(request.ids), budget.deadline
        admitted = self._engine.enter(model.runner.load_of(rows), deadline)
        try:
            started = time.perf_counter()
            at = time.time() if request.at is None else request.at
            user, items = await self.fetch(model, request, at, deadline)
            assembled = assemble(model.schema, request, at, user, items)
            rows_s = time.perf_counter() - started
            self._metrics.stages["rows"].observe(rows_s)

            def first(count: int) -> Tensors:
                nothing = model.codecs["item"].unpack([None]).records
                return cut(model.schema, assembled.tensors, count, nothing, at)

            ran = await self._engine.run(model.runner, assembled.tensors, rows, deadline, budget.is_gone, first)
        finally:
            self._engine.release(admitted)
        # A non-finite score makes the sum non-finite: a sum costs half as much as checking each.
        if not all(math.isfinite(column.sum()) for column in ran.result.values()):
            raise ModelError("the model returned a non-finite score for this request")
        scores, degraded, degraded_user = ran.result, assembled.degraded_candidates, assembled.degraded_user
        uncertainty = None if request.explore is None else model.bundle.manifest.uncertainty
        if uncertainty is not None:
            told = first(len(scores[HEAD]) - 1) if ran.is_partial else assembled.tensors
            scores = {**scores, COLUMN: uncertainty.logit_std(impressions_of(model.schema, told), scores[HEAD])}
        if ran.is_partial:
            rows = len(scores[model.bundle.manifest.heads[0]]) - 1
            scores, degraded = spread(scores, request.ids), declared(scores, request.ids, degraded)
        correction = None if self._corrections is None else self._corrections.of(model)
        if correction is not None:
            scores = {**scores, HEAD: correction(scores[HEAD])}
        if degraded or degraded_user:
            self._metrics.degraded(Counter(degraded.values()), degraded_user)
        basis = Basis(at, user, items, rows, ran.is_partial)
        formula = model.bundle.manifest.formula
        return Scored(scores, degraded, degraded_user, basis, correction, rows_s, ran.queue_s, ran.run_s, formula)

    async def tensors(self, model: Model, request: CheckedRequest, at: float, deadline: float) -> Tensors:
        """Return the tensors with which another model would have scored the request."""
        return assemble(model.schema, request, at, *await self.fetch(model, request, at, deadline)).tensors

    async def _score_in_python(self, deployment: Deployment, raw: RawRequest) -> Answer:
        stages, budget = self._metrics.stages, raw.budget
        started = time.perf_counter()
        try:
            # The request's ID assigns anonymous users to arms.
            request = parse_request_by(
                raw.body, lambda user_id: deployment.schema_of(user_id or raw.request_id), self._max_candidates
            )
        finally:
            parse_s = time.perf_counter() - started
            stages["parse"].observe(parse_s)
        count = len(request.ids)
        self._engine.read(len(raw.body), count)
        arm = deployment.arm_of(request.user_id or raw.request_id)
        model, explanation = arm.model, None
        if request.pricing is not None:
            check_pricing(request, model.bundle.manifest.formula)
        options = request.explore
        explore = None if options is None else exploration_of(options, raw.request_id, self._explore_share)
        score = partial(self.score, model, request, budget)
        if request.explain and self._explain is not None:
            scored, explanation = await self._explain(model, request, budget, score)
        else:
            scored = await score()
        started = time.perf_counter()
        if explore is not None:
            choice = first_of(explore, request, scored.scores, scored.formula)
            result: Explored = "explored" if choice.explored else "exploited"
            self._metrics.explorations["unavailable" if choice.policy == "greedy" else result].inc()
            scored = replace(scored, choice=choice)
        self._metrics.candidates.observe(count)
        if deployment.is_split:
            self._metrics.arms[arm.slot].inc()
        named = arm.name if deployment.is_split else None
        reply = build_reply(raw.request_id, model.version, request, scored, named, explanation)
        ended = time.perf_counter()
        # Without sending: that wakes the client, which on the same machine may run first.
        stages["reply"].observe(ended - started)
        taken = (parse_s, scored.rows_s, scored.queue_s, scored.run_s, ended - raw.began)
        degraded: dict[str, int] = dict(Counter(scored.degraded_candidates.values()))
        if scored.degraded_user:
            degraded[f"user_{scored.degraded_user}"] = 1
        served = Served(
            raw.request_id,
            time.time(),
            arm.name,
            arm.share,
            arm is deployment.arms[0],
            model,
            raw.body,
            request,
            scored,
            taken,
        )
        headers = headers_of(reply, taken, None if explanation is None else explanation.seconds)
        return Answer(headers, reply, count, degraded, (*taken[:-1], ended - started), ended, deployment, served)

    async def fetch(self, model: Model, request: CheckedRequest, at: float, deadline: float) -> tuple[Rows, Rows]:
        """Return the rows of the user [1], and of `wanted_items`, as of a time."""
        rows_of = partial(self.rows, model, deadline)
        if self._fetch_live is not None:
            user, items = await self._fetch_live(model.schema, request, at, rows_of, deadline)
        else:
            user = await rows_of("user", [request.user_id])
            items = await rows_of("item", wanted_items(request, user))
        if request.item_texts and self._fill is not None:
            items = await self._fill(model, request, items, deadline)
        return user, items

    async def rows(self, model: Model, deadline: float, side: RowSide, ids: Sequence[str]) -> Rows:
        """Return the store's rows, or the available ones if it fails; an anonymous user has no row."""
        if side == "user" and ids[0] == ANONYMOUS:
            return model.codecs[side].unpack([None])
        try:
            rows = await model.store.get(side, ids, deadline)
        except StoreError as error:
            self._note(error)
            if error.rows is not None:
                return error.rows
            return model.codecs[side].unpack([None] * len(ids))._replace(stale=np.zeros(len(ids), bool))
        self._metrics.damaged(side, rows.damaged)
        return rows

    def _note(self, error: StoreError) -> None:
        """Count a failed read. The log gets one line for many."""
        self._metrics.store_errors.inc()
        self._unsaid += 1
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("store_error", error=str(error), reads=self._unsaid)
            self._unsaid, self._say_again_at = 0, now + _SAY_AGAIN_S
