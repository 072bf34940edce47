"""From a request's body to the body of its reply, whoever has the connection that it came over.

Errors are raised. Knows neither how requests come nor how replies go, nor who explains scores or follows replies: they
attach to it as `explain` and `followers`.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from msd.contract.request import CheckedRequest, parse_request_by
from service.admission import Admission, Load
from service.lineup.lineup import Lineup
from service.lineup.model import Model
from service.metrics import Metrics
from service.reply import Explanation, build_reply
from service.scorer import Scored, Scorer, Terms

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
    """A request to score. `began`: when its answering began, by `time.perf_counter`."""

    request_id: str
    body: bytes
    began: float
    terms: Terms


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
    served: Served


Explain = Callable[[Model, CheckedRequest, Scored, Terms], Awaitable[Explanation]]
"""What a score came of, for requests that ask for it."""
Follower = Callable[[Answer], None]
"""Is shown each reply once it is on its way, and takes no time."""


class Scoring:
    """Parses, scores, and makes the reply. `max_candidates`: of one request."""

    def __init__(
        self,
        serving: Serves,
        scorer: Scorer,
        admission: Admission,
        metrics: Metrics,
        max_candidates: int,
        explain: Explain,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._serving = serving
        self._scorer = scorer
        self._admission = admission
        self._metrics = metrics
        self._max_candidates = max_candidates
        self._explain = explain
        self._followers = followers

    async def answer(self, asked: Asked) -> Answer:
        """Raises RequestError and what the scorer raises."""
        stages, lineup = self._metrics.stages, self._serving.current
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
        timing = _TIMING % tuple(1000 * seconds for seconds in taken)
        if explanation is not None:
            timing += _EXPLAINED % (1000 * explanation.seconds)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(reply)),
            (b"server-timing", timing),
        ]
        degraded: dict[str, int] = dict(Counter(scored.degraded_candidates.values()))
        if scored.degraded_user:
            degraded[f"user_{scored.degraded_user}"] = 1
        is_champion = arm is lineup.arms[0]
        served = Served(
            asked.request_id, time.time(), arm.name, arm.share, is_champion, model, asked.body, request, scored, taken
        )
        stages_s = (*taken[:-1], ended - started)
        return Answer(headers, reply, count, degraded, stages_s, lineup, served)

    def expected(self, size: int) -> Load:
        """What a body of so many bytes is expected to ask for."""
        rows = self._admission.rows_in(size)
        return Load(rows, self._serving.current.champion.runner.turn_s.of(rows, 0.0))

    def follow(self, answer: Answer) -> None:
        """What follows a reply once it is on its way."""
        for follower in self._followers:
            follower(answer)
