"""Scoring requests: what the front needs to have them scored, and the answers that are Python's.

The engine answers all but those with a mistake, those that are to be explained, and those that it cannot score now.
"""

import math
from functools import partial
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from msd.contract.request import InvalidRequest, RequestError, check_exploration, check_pricing, parse_request_by
from native import core
from service.deployment.readiness import Readiness
from service.errors import ModelError, NotReady
from service.http.access import CYCLE, JOB, KEY, OIP, PLAYGROUND, AccessMiddleware, access_of, send_reply
from service.http.body import check_deadline, check_encoding, check_json, read_body
from service.http.json_parser import JsonParser
from service.http.keys import Guard
from service.routes.explainer import Explainer
from service.routes.oip.tensors import HEADER
from service.routes.playground.playground import Playground
from service.scoring.answer import Seen
from service.scoring.deployment import Deployment, Serving
from service.scoring.pipeline import Pipeline
from service.scoring.reply import with_explanation
from service.settings import Settings
from service.telemetry.metrics import Metrics

PATH = "/v1/score"
_LENGTH = HEADER.lower().encode()


class ScoreRoute:
    """For the event loop. Errors are raised; `AccessMiddleware` answers them."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        pipeline: Pipeline,
        explainer: Explainer,
        readiness: Readiness,
        guard: Guard | None,
        playground: Playground | None,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._pipeline = pipeline
        self._explainer = explainer
        self._readiness = readiness
        self._guard = guard
        self._playground = playground
        self._parser = JsonParser(settings.max_candidates)
        self._front: core.Front
        self._given: list[Deployment | None] = [None, None]  # what the front scores by
        self.answer: ASGIApp = AccessMiddleware(self, metrics)
        self.follow, self.provide = pipeline.follow, pipeline.provide

    # What the front is told

    def open(self, front: "core.Front") -> None:
        self._front, self._readiness.changed = front, self.look
        if self._guard is not None:
            self._guard.keys.changed = front.forget_keys
        self.look()

    def look(self) -> None:
        """Tell the front what has changed. Called several times a second too."""
        if self._guard is not None and self._guard.is_stale:
            self._front.forget_keys()
        is_ready = not self._readiness.missing
        aside = self._playground.compared if self._playground is not None else None
        for place, deployment in enumerate((self._serving.current, aside)):
            wanted = deployment if is_ready else None
            if wanted is not self._given[place]:
                plan = None if wanted is None else self._pipeline.plan(wanted, is_aside=bool(place))
                self._front.serve(plan, bool(place))
                self._given[place] = wanted
        self._front.forget_plans()

    def judge(self, number: int, key: bytes) -> None:
        """Let the front know a key that may score, and go on with the request that has it."""
        assert self._guard is not None, "keys are required"
        if (entry := self._guard.scorer(key)) is not None:
            until = math.inf if entry.not_after is None else entry.not_after.timestamp()
            self._front.know_key(key, entry.name, until)
            # The keys may have changed meanwhile.
            if self._guard.scorer(key) is not entry:
                self._front.forget_keys()
        self._front.judged(number)

    # What the front hands over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job: core.ScoringJob | None = scope.get(JOB)
        if job is None:
            await self._refuse(scope, receive)
        access_of(scope).request_id = job.shown_id
        if job.key:
            scope[KEY] = job.key
        result = job.result()
        if result.outcome == core.Outcome.REFUSED:
            raise await self._refused(job, result)
        if result.outcome == core.Outcome.NOT_FINITE:
            raise ModelError("the model returned a non-finite score for this request")
        if result.outcome == core.Outcome.LACKING:
            raise RuntimeError("what the request lacks could not be fetched")
        await self._explain(scope, send, job, result.reply, result.seen[0])

    async def _refuse(self, scope: Scope, receive: Receive) -> NoReturn:
        """Raise why the engine does not score a request."""
        if scope["raw_path"] != scope["path"].encode():  # the front reads it as it is written
            raise HTTPException(404, "no such route: write the path without %")
        if scope["path"].startswith(OIP):
            check_encoding(scope, "the request uncompressed")
            lengths = sum(name == _LENGTH for name, _ in scope["headers"])
            if lengths > 1:
                raise InvalidRequest("is given twice", HEADER)
            if not lengths and any(name in (b"content-type", b"origin") for name, _ in scope["headers"]):
                check_json(scope, b"application/octet-stream")
        else:
            check_json(scope)
        await read_body(scope, receive, self._settings)
        self._readiness.check()
        check_deadline(scope)
        missing = self._playground.missing if self._playground and scope["path"].startswith(PLAYGROUND) else ""
        raise NotReady(f"not ready: {missing or 'such requests cannot be scored now'}")

    async def _explain(self, scope: Scope, send: Send, job: "core.ScoringJob", reply: bytes, seen: Seen) -> None:
        assert seen.explained is not None, "it asks for an explanation"
        cycle = scope[CYCLE]
        explanation = await self._explainer.explain(seen.explained, job.deadline, lambda: cycle.is_gone)
        body = with_explanation(reply, explanation, seen.explained.order)
        head = job.head(len(body), explanation.seconds)
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in head.splitlines())]
        await send_reply(send, 200, headers, body)
        if seen.served is not None:
            self.follow(seen)

    async def _refused(self, job: "core.ScoringJob", result: "core.JobResult") -> Exception:
        """Return the error of a request that the core refuses, by its place in the request's own form."""
        made, part = result.translation, result.part
        request_id, body = (job.request_id, job.body) if made is None else made.parts[part]
        error = await self._parser.parse(body, partial(self._refusal, job.of, request_id))
        if made is not None and isinstance(error, RequestError):
            error.field = made.place_of(part, error.field or "")
        return error

    def _refusal(self, deployment: Deployment, request_id: str, body: bytes) -> Exception:
        try:
            request = parse_request_by(
                body, lambda user_id: deployment.schema_of(user_id or request_id), self._settings.max_candidates
            )
            model = deployment.arm_of(request.user_id or request_id).model
            check_pricing(request, model.bundle.manifest.formula)
            check_exploration(request, self._settings.explore_share)
        except RequestError as error:
            return error
        return RuntimeError("the native core refuses a request that msd.contract accepts")
