"""POST /v1/score as a raw ASGI endpoint: body, check, score, reply, with nothing of a framework in between.

Errors are raised; `access` answers them.
"""

import time
from contextlib import nullcontext

from starlette.types import Receive, Scope, Send

from service.access import Access, access_of
from service.admission import Admission
from service.body import read_json_body
from service.client import Client
from service.deadline import Deadlines
from service.errors import NotReady
from service.guard import Guard
from service.protocol import began_at, left_check
from service.readiness import Readiness
from service.run_queue import RunQueue
from service.scorer import Aside, Terms
from service.scoring import Asked, Scoring
from service.settings import Settings
from service.siblings import Reply, Siblings

PATH = "/v1/score"


class ScoreRoute:
    """The endpoint. Its work is bounded in bytes, time, candidates and waiting rows."""

    def __init__(
        self,
        settings: Settings,
        scoring: Scoring,
        admission: Admission,
        queue: RunQueue,
        readiness: Readiness,
        guard: Guard | None,
        siblings: Siblings | None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._deadlines = Deadlines(settings)
        self._scoring = scoring
        self._admission = admission
        self._queue = queue
        self._readiness = readiness
        self._siblings = siblings
        self._aside: Aside = nullcontext if siblings is None else siblings.aside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        access = access_of(scope)
        access.is_scoring = True
        if self._guard is not None and (refusal := self._guard.refusal(scope, "score")):
            await self._guard.send_away(scope, receive, refusal)
        settings = self._settings
        body = await read_json_body(scope, receive, settings.max_body_bytes, settings.body_timeout_ms / 1000)
        if not self._readiness.can_score:
            raise NotReady(f"not ready: {self._readiness.summary()}")
        is_gone = left_check(scope)
        deadline = self._deadlines.of(scope["headers"], began_at(scope))
        if self._admission.is_shedding:
            self._admission.check(self._scoring.expected(len(body)), deadline)
        self._queue.check(deadline, is_gone)
        asked = Asked(access.request_id, body, access.started, Terms(deadline, is_gone, aside=self._aside))
        if self._siblings is None:
            await self._answer(asked, access, send)
        elif self._siblings.is_free or (client := Client.of(scope)) is None:
            self._siblings.begin()
            try:
                await self._answer(asked, access, send)
            finally:
                self._siblings.end()
        else:
            await self._share(self._siblings, asked, client, access, send)

    async def _share(self, siblings: Siblings, asked: Asked, client: Client, access: Access, send: Send) -> None:
        """Lets whichever worker is free first answer. What is waited for counts as it is expected to be, unread."""
        offered_at, deadline = time.perf_counter(), asked.terms.deadline
        load = self._scoring.expected(len(asked.body))
        self._admission.enter(load, deadline)
        try:
            reply = await siblings.offer(asked, client)
            if reply is not None:
                _note(access, reply)
                client.complete(reply.rest)
                return
            try:
                self._queue.check(deadline, asked.terms.is_gone)
                terms = asked.terms._replace(waited_s=time.perf_counter() - offered_at, is_taken_on=True)
                await self._answer(asked._replace(terms=terms), access, send)
            finally:
                siblings.end()
        finally:
            self._admission.leave(load)

    async def _answer(self, asked: Asked, access: Access, send: Send) -> None:
        answer = await self._scoring.answer(asked)
        access.candidates, access.degraded, access.stages = answer.candidates, answer.degraded, answer.stages
        await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})
        self._scoring.follow(answer)


def _note(access: Access, reply: Reply) -> None:
    access.status, access.ended, access.error = reply.status, reply.ended, reply.error
    access.degraded, access.stages = reply.degraded, reply.stages
    if reply.candidates:
        access.candidates = reply.candidates
