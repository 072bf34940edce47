"""POST /v1/score on the event loop: no task, no layers, one write.

It handles requests that came whole; everything else is for the app, whose `score_route` answers all requests. Does not
know how a request is read (`protocol`) or scored (`pipeline`).
"""

from asyncio import CancelledError
from collections.abc import Callable
from functools import partial

from starlette.types import Scope

from service.deployment.readiness import Readiness
from service.errors import MalformedHeader, UnsupportedMediaType
from service.http.exchange import AccessLog, Deadlines, Exchange, check_json
from service.http.keys import Guard
from service.routes.score_route import PATH
from service.scoring.answer import Answer, Budget, RawRequest
from service.scoring.deployment import Serving
from service.scoring.pipeline import Pipeline
from service.settings import Settings

GiveUp = Callable[[], None]


class FastRoute:
    """The route. It answers errors as the app does."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        pipeline: Pipeline,
        readiness: Readiness,
        guard: Guard | None,
        log: AccessLog,
    ) -> None:
        self._serving = serving
        self._pipeline = pipeline
        self._readiness = readiness
        self._guard = guard
        self._log = log
        self._deadlines = Deadlines(settings)
        self._max_body_bytes = settings.max_body_bytes

    def takes(self, scope: Scope) -> bool:
        """Return whether a request may qualify, by its head; the body of a refused key is not awaited."""
        is_scoring = scope["path"] == PATH and scope["method"] == "POST"
        return is_scoring and (self._guard is None or self._guard.admits(scope, "score"))

    def begin(self, exchange: Exchange, give_up: GiveUp) -> None:
        """Answer a whole request, now or later, or leave it to the app."""
        scope, access, body = exchange.scope, exchange.access, exchange.body
        access.is_scoring = True
        try:
            check_json(scope)
            deadline = self._deadlines.of(scope)
        except (UnsupportedMediaType, MalformedHeader):
            give_up()
            return
        raw = RawRequest(access.request_id, body, access.started, Budget(deadline, exchange.is_gone))
        deployment = self._serving.current
        is_unusual = self._readiness.missing or len(body) > self._max_body_bytes or exchange.is_clogged
        if is_unusual:
            give_up()
            return
        try:
            # The client need not wait for the loop: the scoring thread sends the reply.
            way = self._pipeline.begin(deployment, raw, partial(self._told, exchange), exchange.wire())
            exchange.on_end = partial(self._pipeline.leave, way)
        except (Exception, CancelledError) as error:  # the parser, which calls this, would treat it as a bad request
            self._fail(exchange, error)

    def _told(self, exchange: Exchange, outcome: Answer | BaseException) -> None:
        # A connection outlives its requests, and need not hold their models.
        exchange.on_end = None
        if isinstance(outcome, Answer):
            access = exchange.access
            access.candidates, access.degraded, access.stages = outcome.candidates, outcome.degraded, outcome.stages
            if outcome.headers:
                exchange.reply(200, outcome.headers, outcome.body)
            else:
                exchange.sent(outcome.body, outcome.ready_at)
            self._log.finish(exchange.scope)
            self._pipeline.follow(outcome)
        else:
            self._fail(exchange, outcome)

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        response = self._log.failed(exchange.scope, error)
        if response is None:
            exchange.abandon()
        else:
            exchange.reply(response.status, response.headers, response.body)
        self._log.finish(exchange.scope)
