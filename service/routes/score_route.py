"""POST /v1/score as a raw ASGI endpoint: body, check, score, reply, without framework layers. Errors are raised;
`AccessMiddleware` answers them.
"""

from starlette.types import Receive, Scope, Send

from msd.contract.request import RequestError
from service.deployment.readiness import Readiness
from service.http.exchange import KEY, Access, Deadlines, access_of, left_check
from service.http.keys import Guard
from service.http.middleware import read_json_body, send_reply
from service.scoring.answer import Answer, Budget, Headers, RawRequest, Translated
from service.scoring.deployment import Deployment, Serving
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics

PATH = "/v1/score"


class ScoreRoute:
    """The endpoint. Its work is bounded in bytes, time, candidates and waiting rows."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        pipeline: Pipeline,
        readiness: Readiness,
        guard: Guard | None,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._deadlines = Deadlines(settings)
        self._serving = serving
        self._pipeline = pipeline
        self._readiness = readiness
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw, deployment = await self._begin(scope, receive)
        answer = await self._pipeline.answer(deployment, raw)
        await self._send(answer, answer.headers, answer.body, access_of(scope), send)

    async def _begin(self, scope: Scope, receive: Receive) -> tuple[RawRequest, Deployment]:
        """Return a request that may be scored, and the deployment to score it with."""
        access = access_of(scope)
        access.is_scoring = True
        if self._guard is not None:
            self._guard.check(scope, "score")
        body = await self._read(scope, receive)
        self._readiness.check()
        budget = Budget(self._deadlines.of(scope), left_check(scope))
        raw = RawRequest(access.request_id, body, access.started, budget, scope.get(KEY, ""))
        return raw, self._serving.current

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        return await read_json_body(scope, receive, self._settings)

    async def _answer(self, deployment: Deployment, raw: RawRequest, made: Translated) -> Answer:
        """Score a request of another form."""
        try:
            return await self._pipeline.answer(deployment, raw._replace(request_id=made.request_id, body=made.body))
        except RequestError as error:
            error.field = made.place_of(error.field or "")
            raise

    async def _send(self, answer: Answer, headers: Headers, body: bytes, access: Access, send: Send) -> None:
        access.candidates, access.degraded, access.stages = answer.candidates, answer.degraded, answer.stages
        await send_reply(send, 200, headers, body)
        if answer.seen is not None:
            self._pipeline.follow(answer.seen)
