"""POST /v1/score as a raw ASGI endpoint: body, check, score, reply, with nothing of a framework in between.

Errors are raised; `access` answers them.
"""

import time

from starlette.types import Receive, Scope, Send

from msd.contract.request import parse_request_by
from service.access import access_of
from service.body import read_json_body
from service.deadline import Deadlines
from service.errors import NotReady
from service.guard import Guard
from service.lineup.lineup import Serving
from service.lineup.shadowing import Shadowing
from service.metrics import Metrics
from service.protocol import began_at, left_check
from service.readiness import Readiness
from service.reply import build_reply
from service.request_log.message import Served
from service.request_log.sender import RequestLog
from service.scorer import Scorer
from service.settings import Settings

PATH = "/v1/score"
_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"


class ScoreRoute:
    """The endpoint. Its work is bounded in bytes, time, candidates and waiting rows."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        scorer: Scorer,
        readiness: Readiness,
        metrics: Metrics,
        guard: Guard | None,
        shadowing: Shadowing,
        request_log: RequestLog | None = None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._deadlines = Deadlines(settings)
        self._serving = serving
        self._scorer = scorer
        self._readiness = readiness
        self._metrics = metrics
        self._shadowing = shadowing
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        access = access_of(scope)
        access.is_scoring = True
        if self._guard is not None and (refusal := self._guard.refusal(scope, "score")):
            await self._guard.send_away(scope, receive, refusal)
        settings, stages = self._settings, self._metrics.stages
        body = await read_json_body(scope, receive, settings.max_body_bytes, settings.body_timeout_ms / 1000)
        if not self._readiness.can_score:
            raise NotReady(f"not ready: {self._readiness.summary()}")
        is_gone = left_check(scope)
        deadline = self._deadlines.of(scope, began_at(scope))
        self._scorer.check_door(deadline, is_gone)
        started = time.perf_counter()
        lineup = self._serving.current
        try:
            request = parse_request_by(body, lineup.schema_of, settings.max_candidates)
        finally:
            parse_s = time.perf_counter() - started
            stages["parse"].observe(parse_s)
        access.candidates = len(request.ids)
        arm = lineup.arm_of(request.user_id)
        model = arm.model
        scored = await self._scorer.score(model, request, deadline, is_gone)
        started = time.perf_counter()
        self._metrics.candidates.observe(len(request.ids))
        if lineup.is_split:
            self._metrics.arms[arm.slot].inc()
        if scored.degraded_candidates or scored.degraded_user:
            access.note_degraded(scored.degraded_candidates.values(), scored.degraded_user)
        named = arm.name if lineup.is_split else None
        reply = build_reply(access.request_id, model.version, request, scored, named)
        ended = time.perf_counter()
        # Without the sending: it wakes the client, which on the same machine may go first.
        stages["reply"].observe(ended - started)
        taken = (parse_s, scored.rows_s, scored.queue_s, scored.run_s, ended - access.started)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(reply)),
            (b"server-timing", _TIMING % tuple(1000 * seconds for seconds in taken)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        if lineup.shadows:
            self._shadowing.offer(lineup, model, body, request, scored)
        if self._request_log is not None and self._request_log.wants(access.request_id):
            now, is_champion = time.time(), arm is lineup.arms[0]
            self._request_log.request(
                Served(access.request_id, now, arm.name, arm.share, is_champion, model, body, request, scored, taken)
            )
