"""POST /v1/prepare: prepares a user whose candidates are not known yet. Errors are raised; `AccessMiddleware` answers
them.
"""

from starlette.types import Receive, Scope, Send

from service.deployment.readiness import Readiness
from service.http.exchange import Deadlines, access_of, left_check
from service.http.middleware import read_json_body
from service.scoring.answer import Asked, Terms
from service.scoring.lineup import Serving
from service.scoring.preparing import Preparing
from service.settings import Settings

PATH = "/v1/prepare"


class PrepareRoute:
    """The endpoint. Its work is bounded as that of a scoring request for one candidate."""

    def __init__(self, settings: Settings, serving: Serving, preparing: Preparing, readiness: Readiness) -> None:
        self._settings = settings
        self._deadlines = Deadlines(settings)
        self._serving = serving
        self._preparing = preparing
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        access = access_of(scope)
        body = await read_json_body(scope, receive, self._settings)
        self._readiness.check()
        asked = Asked(
            access.request_id, body, access.started, Terms(self._deadlines.of(scope), left_check(scope)), True
        )
        reply = await self._preparing.answer(self._serving.current, asked)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
