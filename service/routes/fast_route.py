"""POST /v1/score for the event loop alone: no task, no layers, one write. It takes what came whole and is of the
plainest form; whatever is unusual about a request is for the app, whose `score_route` answers all of them.

Does not know how a request is read from its connection (`protocol`), nor how it is scored (`plain`).
"""

from asyncio import CancelledError
from collections.abc import Callable
from functools import partial

from starlette.types import Scope

from service.deployment.readiness import Readiness
from service.errors import MalformedHeader, UnsupportedMediaType
from service.http.access import Access, AccessLog
from service.http.exchange import Exchange
from service.http.keys import Guard
from service.http.request import Deadlines, check_json
from service.models.lineup import Serving
from service.routes.score_route import PATH, PYTHONS
from service.scoring.answer import Answer, Asked, Terms
from service.scoring.plain import PlainScoring
from service.settings import Settings

GiveUp = Callable[[], None]


class FastRoute:
    """The route. Errors that it meets are answered as the app answers them."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        plain: PlainScoring,
        readiness: Readiness,
        guard: Guard | None,
        log: AccessLog,
    ) -> None:
        self._serving = serving
        self._plain = plain
        self._readiness = readiness
        self._guard = guard
        self._log = log
        self._deadlines = Deadlines(settings)
        self._max_body_bytes = settings.max_body_bytes

    def takes(self, scope: Scope) -> bool:
        """Whether a request whose head came may be one: of a key that is refused, no body is waited for."""
        is_plain = scope["path"] == PATH and scope["method"] == "POST" and self._serving.current.champion.native
        return bool(is_plain and (self._guard is None or self._guard.admits(scope, "score")))

    def begin(self, exchange: Exchange, give_up: GiveUp) -> None:
        """Answers a request that came whole, now or later, or gives it up to the app."""
        scope, body = exchange.scope, exchange.body
        access = self._log.begin(scope)
        access.is_scoring = True
        try:
            check_json(scope)
            deadline = self._deadlines.of(scope["headers"], exchange.began)
        except (UnsupportedMediaType, MalformedHeader):
            give_up()
            return
        asked = Asked(access.request_id, body, access.started, Terms(deadline, exchange.is_gone))
        lineup = self._serving.current
        is_unusual = self._readiness.missing or len(body) > self._max_body_bytes or exchange.is_clogged
        if is_unusual or not self._plain.wants(lineup, asked):
            give_up()
            return
        try:
            told, send = partial(self._told, exchange, access, give_up), partial(self._send, exchange, access)
            exchange.on_end = partial(self._plain.leave, self._plain.begin(lineup, asked, told, send))
        except (Exception, CancelledError) as error:  # the parser, which calls this, would take it for a bad request
            self._fail(exchange, access, error)

    def _send(self, exchange: Exchange, access: Access, answer: Answer) -> None:
        """In a scoring thread: the client need not wait for the loop."""
        self._log.reply_begins(access, 200)
        exchange.send(200, [*answer.headers, self._log.header_of(access)], answer.body)

    def _told(
        self, exchange: Exchange, access: Access, give_up: GiveUp, outcome: Answer | BaseException | None
    ) -> None:
        if outcome is None:
            exchange.scope[PYTHONS] = True
            give_up()
        elif isinstance(outcome, Answer):
            access.candidates, access.degraded, access.stages = outcome.candidates, outcome.degraded, outcome.stages
            exchange.reply(200, [*outcome.headers, self._log.header_of(access)], outcome.body)
            self._log.finish(exchange.scope, access)
            self._plain.follow(outcome)
        else:
            self._fail(exchange, access, outcome)

    def _fail(self, exchange: Exchange, access: Access, error: BaseException) -> None:
        response = self._log.failed(access, error, PATH)
        if response is None:
            self._log.finish(exchange.scope, access)
            exchange.abandon()
        else:
            self._log.reply_begins(access, response.status)
            exchange.reply(response.status, [*response.headers, self._log.header_of(access)], response.body)
            self._log.finish(exchange.scope, access)
