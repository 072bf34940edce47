"""Scoring requests that the engine does not answer by itself, as a raw ASGI endpoint without framework layers. Errors
are raised; `AccessMiddleware` answers them.
"""

from typing import Any

from starlette.types import Receive, Scope, Send

from msd.contract.request import InvalidRequest
from service.deployment.readiness import Readiness
from service.http.exchange import JOB, KEY, access_of, check_encoding, check_json, deadline_of, left_check
from service.http.keys import Guard
from service.http.middleware import read_body, send_reply
from service.routes.oip.tensors import HEADER
from service.scoring.answer import Budget, Form, RawRequest
from service.scoring.deployment import Serving
from service.scoring.pipeline import Pipeline
from service.settings import Settings

PATH = "/v1/score"
_LENGTH = HEADER.lower().encode()


class ScoreRoute:
    """The endpoint. Its work is bounded in bytes, time, candidates and waiting rows."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        pipeline: Pipeline,
        readiness: Readiness,
        guard: Guard | None,
        form: Form = Form.SCORE,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._serving = serving
        self._pipeline = pipeline
        self._readiness = readiness
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = access_of(scope)
        access.is_scoring = True
        if self._guard is not None:
            self._guard.check(scope, "score")
        job: Any = scope.get(JOB)
        if job is None:
            json_length = self._check_head(scope)
            body = await read_body(scope, receive, self._settings)
            self._readiness.check()
            raw = self._raw(scope, access.request_id, body)._replace(json_length=json_length)
            job = self._pipeline.job(self._serving.current, raw)
        else:
            raw = self._raw(scope, job.request_id, job.body)
        try:
            answer = await self._pipeline.answer(job, raw)
        finally:
            access.request_id = job.shown_id
        await send_reply(send, 200, answer.headers, answer.body)
        for seen in answer.seen:
            self._pipeline.follow(seen)

    def _check_head(self, scope: Scope) -> bytes | None:
        """Return the length of the JSON if bytes follow it. Raises UnsupportedMediaType, InvalidRequest."""
        if self._form is not Form.INFER:
            check_json(scope)
            return None
        check_encoding(scope, "the request uncompressed")
        lengths = [value for name, value in scope["headers"] if name == _LENGTH]
        if len(lengths) > 1:
            raise InvalidRequest("is given twice", HEADER)
        return bytes(lengths[0]) if lengths else None

    def _raw(self, scope: Scope, request_id: str, body: bytes) -> RawRequest:
        """Raises MalformedHeader."""
        began, deadline, is_own = deadline_of(scope, self._settings.deadline_ms / 1000)
        budget = Budget(deadline, left_check(scope), is_own)
        path, key = scope["raw_path"].decode("latin-1"), scope.get(KEY, "")
        return RawRequest(request_id, body, began, budget, self._form, path, key=key)
