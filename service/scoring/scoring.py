"""From a request's body to the body of its reply, whoever has the connection that it came over.

Errors are raised. Knows neither how requests come nor how replies go, nor who explains scores or follows replies: they
attach to it as `explain` and `followers`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from msd.contract.request import CheckedRequest, parse_request_by
from service.models.lineup import Lineup
from service.models.model import Model
from service.scoring.admission import Admission, Load
from service.scoring.answer import Answer, Asked, Follower, Served, headers_of
from service.scoring.plain_scoring import PlainScoring
from service.scoring.reply import Explanation, build_reply
from service.scoring.scorer import Scored, Scorer, Terms
from service.telemetry.metrics import Metrics


class Serves(Protocol):
    """Whatever knows which line-up serves."""

    @property
    def current(self) -> Lineup:
        """The line-up that serves now."""
        ...


Explain = Callable[[Model, CheckedRequest, Scored, Terms], Awaitable[Explanation]]
"""What a score came of, for requests that ask for it."""


class Scoring:
    """Parses, scores, and makes the reply. `max_candidates`: of one request. `plain` scores what it can; None where
    requests are scored from more than rows."""

    def __init__(
        self,
        serving: Serves,
        scorer: Scorer,
        plain: PlainScoring | None,
        admission: Admission,
        metrics: Metrics,
        max_candidates: int,
        explain: Explain,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._serving = serving
        self._scorer = scorer
        self._plain = plain
        self._admission = admission
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._explain = explain
        self._followers = followers

    async def answer(self, asked: Asked) -> Answer:
        """Raises RequestError and what the scorer raises."""
        lineup = self._serving.current
        if self._plain is not None and not asked.is_pythons and self._plain.wants(lineup, asked):
            answer = await self._score_plainly(self._plain, lineup, asked)
            if answer is not None:
                return answer
        return await self._score(lineup, asked)

    async def _score_plainly(self, plain: PlainScoring, lineup: Lineup, asked: Asked) -> Answer | None:
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        job = plain.begin(lineup, asked, partial(_settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            job.is_cancelled = True
            raise

    async def _score(self, lineup: Lineup, asked: Asked) -> Answer:
        """By Python, which knows all that a request may hold."""
        stages = self._metrics.stages
        started = time.perf_counter()
        try:
            request = parse_request_by(asked.body, lineup.schema_of, self._max_candidates)
        finally:
            parse_s = time.perf_counter() - started
            stages["parse"].observe(parse_s)
        count = len(request.ids)
        self._admission.read(len(asked.body), count)
        arm = lineup.arm_of(request.user_id)
        model = arm.model
        scored = await self._scorer.score(model, request, asked.terms)
        explanation = await self._explain(model, request, scored, asked.terms) if request.explain else None
        started = time.perf_counter()
        self._metrics.candidates.observe(count)
        if lineup.is_split:
            self._metrics.arms[arm.slot].inc()
        named = arm.name if lineup.is_split else None
        reply = build_reply(asked.request_id, model.version, request, scored, named, explanation)
        ended = time.perf_counter()
        # Without the sending: it wakes the client, which on the same machine may go first.
        stages["reply"].observe(ended - started)
        taken = (parse_s, scored.rows_s, scored.queue_s, scored.run_s, ended - asked.began)
        degraded: dict[str, int] = dict(Counter(scored.degraded_candidates.values()))
        if scored.degraded_user:
            degraded[f"user_{scored.degraded_user}"] = 1
        served = Served(
            asked.request_id,
            time.time(),
            arm.name,
            arm.share,
            arm is lineup.arms[0],
            model,
            asked.body,
            request,
            scored,
            taken,
        )
        stages_s = (*taken[:-1], ended - started)
        headers = headers_of(reply, taken, None if explanation is None else explanation.seconds)
        return Answer(headers, reply, count, degraded, stages_s, lineup, served)

    def expected(self, size: int) -> Load:
        """What a body of so many bytes is expected to ask for."""
        rows = self._admission.rows_in(size)
        return Load(rows, self._serving.current.champion.runner.turn_s.of(rows, 0.0))

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers:
            follower.follow(answer)


def _settle(future: "asyncio.Future[Answer | None]", outcome: Answer | BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
