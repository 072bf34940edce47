"""From a request's body to the body of its reply, whoever has the connection that it came over.

Errors are raised. Knows neither how requests come nor how replies go, nor who explains scores or follows replies: they
attach to it as `explain` and `followers`.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from msd.contract.assemble import Rung
from msd.contract.request import CheckedRequest, parse_request_by
from service.admission import Admission, Load
from service.lineup.lineup import Lineup
from service.lineup.model import Model
from service.metrics import STAGES, Metrics
from service.native_path import Plain, may_be_plain
from service.reply import Explanation, build_reply
from service.run_queue import Job, RunQueue
from service.scorer import Scored, Scorer, Terms
from service.stores.store import tell_core_rows

_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"
_EXPLAINED = b", explain;dur=%.3f"
# Memory of a string and its place in a list, about.
_STRING_BYTES = 80

Headers = list[tuple[bytes, bytes]]


class Serves(Protocol):
    """Whatever knows which line-up serves."""

    @property
    def current(self) -> Lineup:
        """The line-up that serves now."""
        ...


class Asked(NamedTuple):
    """A request to score. `began`: when its answering began, by `time.perf_counter`. `needs_scored`: whether the answer
    is to tell what was `served`, too."""

    request_id: str
    body: bytes
    began: float
    terms: Terms
    needs_scored: bool = False


class Served(NamedTuple):
    """One scored request, when its reply was made: `seconds` are those of parse, rows, queue, run and all together."""

    request_id: str
    received_at: float
    arm: str
    arm_share: float
    is_champion: bool
    model: Model
    body: bytes
    request: CheckedRequest
    scored: Scored
    seconds: tuple[float, float, float, float, float]

    @property
    def size(self) -> int:
        """Bytes of memory that it keeps, about."""
        basis = self.scored.basis
        arrays = (basis.user.records, basis.items.records, *self.scored.scores.values())
        return len(self.body) + sum(one.nbytes for one in arrays) + _STRING_BYTES * len(basis.items.found)


class Answer(NamedTuple):
    """A reply's headers and body, and what log, metrics and traces tell of it. `stages`: seconds, as `STAGES` are."""

    headers: Headers
    body: bytes
    candidates: int
    degraded: dict[str, int]
    stages: tuple[float, ...]
    lineup: Lineup
    served: Served | None
    """None where nobody wanted to know what the scores came of."""


Explain = Callable[[Model, CheckedRequest, Scored, Terms], Awaitable[Explanation]]
"""What a score came of, for requests that ask for it."""


class Follower(Protocol):
    """Is shown each reply once it is on its way. Takes no time."""

    def wants(self, lineup: Lineup, request_id: str) -> bool:
        """Whether it is to be told what a request's scores came of."""
        ...

    def follow(self, answer: Answer) -> None:
        """Take note of a reply."""
        ...


class Scoring:
    """Parses, scores, and makes the reply. `max_candidates`: of one request."""

    def __init__(
        self,
        serving: Serves,
        scorer: Scorer,
        queue: RunQueue,
        admission: Admission,
        metrics: Metrics,
        max_candidates: int,
        explain: Explain,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._serving = serving
        self._scorer = scorer
        self._queue = queue
        self._admission = admission
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._explain = explain
        self._followers = followers

    async def answer(self, asked: Asked) -> Answer:
        """Raises RequestError and what the scorer raises."""
        lineup = self._serving.current
        if self._may_be_plain(lineup, asked):
            plain = await self._score_plainly(lineup, asked)
            if plain is not None:
                return plain
        return await self._score(lineup, asked)

    def _may_be_plain(self, lineup: Lineup, asked: Asked) -> bool:
        """Whether the native core is to try: not where somebody wants all that a score came of."""
        if (
            asked.needs_scored
            or lineup.champion.native is None
            or not self._scorer.reads_rows_alone
            or not may_be_plain(asked.body)
        ):
            return False
        return not any(follower.wants(lineup, asked.request_id) for follower in self._followers)

    async def _score_plainly(self, lineup: Lineup, asked: Asked) -> Answer | None:
        """By the native core, all in one scoring thread; None where it leaves the request to Python."""
        deadline, load = asked.terms.deadline, self.expected(len(asked.body))
        arm = lineup.arms[0]

        def work() -> Plain | None:
            nonlocal arm
            job.rows, path = 0, arm.model.native
            frame = path.read(asked.body) if path else None
            if frame is not None and lineup.is_split:
                arm = lineup.arm_of(frame.core.user_id)
                path = arm.model.native
                frame = path.read(asked.body) if path else None
            if path is None or frame is None:
                return None
            plain = path.score(frame, asked.request_id, arm.name if lineup.is_split else None, deadline)
            job.rows = plain.candidates if plain else 0
            return plain

        job = Job(work, lineup.champion.runner, load.rows, deadline, asked.terms.is_gone)
        self._admission.enter(load, deadline)
        try:
            done = await self._queue.do(job)
        finally:
            self._admission.leave(load)
        plain = done.result
        if plain is None:
            return None
        self._admission.read(len(asked.body), plain.candidates)
        degraded = self._tell_plain(plain, done.queue_s)
        taken = (plain.parse_s, plain.rows_s, done.queue_s, plain.run_s, time.perf_counter() - asked.began)
        if lineup.is_split:
            self._metrics.arms[arm.slot].inc()
        stages_s = (*taken[:-1], plain.reply_s)
        return Answer(_headers(plain.reply, taken), plain.reply, plain.candidates, degraded, stages_s, lineup, None)

    def _tell_plain(self, plain: Plain, queue_s: float) -> dict[str, int]:
        """Counts what was scored; what is declared as degraded, by rung."""
        metrics, found = self._metrics, plain.found
        seconds = (plain.parse_s, plain.rows_s, queue_s, plain.run_s, plain.reply_s)
        for stage, one in zip(STAGES, seconds, strict=True):
            metrics.stages[stage].observe(one)
        metrics.candidates.observe(plain.candidates)
        metrics.run_rows.observe(plain.candidates)
        tell_core_rows(metrics, plain.tier, found)
        missing: list[Rung] = ["prior"] * found.missing
        metrics.degraded(missing, None if found.has_user else "unknown")
        degraded: dict[str, int] = {}
        if found.missing:
            degraded["prior"] = found.missing
        if not found.has_user:
            degraded["user_unknown"] = 1
        return degraded

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
        headers = _headers(reply, taken, None if explanation is None else explanation.seconds)
        return Answer(headers, reply, count, degraded, stages_s, lineup, served)

    def expected(self, size: int) -> Load:
        """What a body of so many bytes is expected to ask for."""
        rows = self._admission.rows_in(size)
        return Load(rows, self._serving.current.champion.runner.turn_s.of(rows, 0.0))

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers:
            follower.follow(answer)


def _headers(reply: bytes, taken: tuple[float, ...], explain_s: float | None = None) -> Headers:
    """Of a reply whose parse, rows, queue, run and all of it took so many seconds."""
    timing = _TIMING % tuple(1000 * seconds for seconds in taken)
    if explain_s is not None:
        timing += _EXPLAINED % (1000 * explain_s)
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply)),
        (b"server-timing", timing),
    ]
