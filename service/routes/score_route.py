"""POST /v1/score as a raw ASGI endpoint: body, check, score, reply, without framework layers. Errors are raised;
`AccessMiddleware` answers them.
"""

from starlette.types import Receive, Scope, Send

from service.deployment.readiness import Readiness
from service.http.exchange import Access, Deadlines, access_of, left_check
from service.http.keys import Guard
from service.http.middleware import read_json_body
from service.scoring.answer import Answer, Budget, Headers, RawRequest
from service.scoring.deployment import Serves
from service.scoring.pipeline import Pipeline
from service.settings import Settings

PATH = "/v1/score"
SKIPS_NATIVE = "msd.skips_native"
"""In a scope: whether the native core left the request to Python."""


class ScoreRoute:
    """The endpoint. Its work is bounded in bytes, time, candidates and waiting rows."""

    def __init__(
        self,
        settings: Settings,
        serving: Serves,
        pipeline: Pipeline,
        readiness: Readiness,
        guard: Guard | None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._deadlines = Deadlines(settings)
        self._serving = serving
        self._pipeline = pipeline
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        access = access_of(scope)
        access.is_scoring = True
        if self._guard is not None:
            self._guard.check(scope, "score")
        body = await read_json_body(scope, receive, self._settings)
        self._readiness.check()
        budget = Budget(self._deadlines.of(scope), left_check(scope))
        deployment = self._serving.current
        self._pipeline.check(deployment, len(body), budget)
        raw = RawRequest(access.request_id, body, access.started, budget, scope.get(SKIPS_NATIVE, False))
        answer = await self._pipeline.answer(deployment, raw)
        await self._send(answer, answer.headers, answer.body, access, send)

    async def _send(self, answer: Answer, headers: Headers, body: bytes, access: Access, send: Send) -> None:
        """Send an answer in either form."""
        access.candidates, access.degraded, access.stages = answer.candidates, answer.degraded, answer.stages
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._pipeline.follow(answer)
