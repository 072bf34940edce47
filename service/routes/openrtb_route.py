"""POST /v1/openrtb: converts a BidRequest to one /v1/score request per impression, scored like any other. Errors are
raised; `AccessMiddleware` answers them.
"""

import json
from asyncio import TaskGroup
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from msd.contract.openrtb import (
    Identity,
    OpenrtbMapping,
    OpenrtbRequest,
    context_of,
    identity_of,
    impressions_of,
    parse_openrtb,
)
from msd.contract.request import InvalidRequest, RequestError
from service.errors import NoOpenrtbMapping
from service.http.exchange import access_of
from service.http.middleware import send_json
from service.routes.score_route import ScoreRoute
from service.scoring.answer import Answer, RawRequest
from service.scoring.deployment import Deployment
from service.scoring.model import Model
from service.scoring.reply import ScoreReply
from service.telemetry.metrics import OpenrtbUser

PATH = "/v1/openrtb"
# A BidRequest's size does not predict the number of candidates.
_LEAST_BYTES = 1


class OpenrtbReply(BaseModel):
    """The replies of all named impressions, in the request's order."""

    id: str = Field(description="The BidRequest's.")
    consent: bool = Field(
        description="Whether the privacy signals let the user's identity be used; if not, nothing about it was."
    )
    imp: dict[str, ScoreReply] = Field(description="By imp.id, as /v1/score replies.")


class OpenrtbRoute(ScoreRoute):
    """The endpoint. All impressions together have the limits of one /v1/score request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = access_of(scope)
        raw, deployment = await self._begin(scope, receive, _LEAST_BYTES)
        most = self._settings.max_candidates
        bid_request = await self._pipeline.parser.parse(raw.body, lambda body: parse_openrtb(body, most))
        with _within("request"):
            # By the first arm's mapping, because the user determines the arm.
            identity = identity_of(_mapping_of(deployment.champion), bid_request.request)
        bodies, unfit = _scoring_bodies(deployment, bid_request, identity, access.request_id)
        self._metrics.openrtb_unfit.inc(unfit)
        user: OpenrtbUser = "missing" if identity.user_id is None else "given"
        self._metrics.openrtb[user if identity.has_consent else "no_consent"].inc()
        wanted = {imp: raw._replace(request_id=request_id, body=body) for imp, (request_id, body) in bodies.items()}
        try:
            async with TaskGroup() as group:
                tasks = [group.create_task(self._answer(deployment, imp, raw)) for imp, raw in wanted.items()]
        except ExceptionGroup as failed:  # the first error has cancelled the others
            raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
        access.candidates = sum(answer.candidates for answer in answers)
        access.degraded = dict(sum((Counter(answer.degraded) for answer in answers), Counter[str]()))
        access.stages = max((answer.stages for answer in answers), key=sum)
        imps = b",".join(b"%b:%b" % (orjson.dumps(imp), own.body) for imp, own in zip(wanted, answers, strict=True))
        head = orjson.dumps(bid_request.request["id"]), orjson.dumps(identity.has_consent)
        await send_json(send, 200, b'{"id":%b,"consent":%b,"imp":{%b}}' % (*head, imps))
        for answer in answers:
            if answer.seen is not None:
                self._pipeline.follow(answer.seen)

    async def _answer(self, deployment: Deployment, imp: str, raw: RawRequest) -> Answer:
        try:
            return await self._pipeline.answer(deployment, raw)
        except RequestError as error:
            error.field = f"candidates.{imp}.{(error.field or '').removeprefix('candidates.')}"
            raise


def _scoring_bodies(
    deployment: Deployment, bid_request: OpenrtbRequest, identity: Identity, request_id: str
) -> tuple[dict[str, tuple[str, bytes]], int]:
    """Return, by impression, its request ID and its /v1/score body; and the number of values that do not fit their
    features. Raises InvalidRequest."""
    with _within("request"):
        imps = impressions_of(bid_request.request)
    places = {imp: place for place, imp in enumerate(imps)}
    bodies, unfit = {}, 0
    for imp, candidates in bid_request.candidates.items():
        if imp not in imps:
            raise InvalidRequest("is not the ID of an impression of the request", f"candidates.{imp}")
        own_id = f"{request_id}/{places[imp]}"
        model = deployment.arm_of(identity.user_id or own_id).model
        fields = model.schema.settable["context"]
        context, odd = context_of(_mapping_of(model), fields, bid_request.request, imps[imp], identity)
        unfit += len(odd)
        document: dict[str, Any] = {
            "user_id": identity.user_id,
            "context": context,
            "candidates": candidates.model_dump(exclude_none=True),
        }
        document |= {"at": bid_request.at} if bid_request.at is not None else {}
        document |= {"top_k": bid_request.top_k} if bid_request.top_k is not None else {}
        bodies[imp] = own_id, _dumped(document)
    return bodies, unfit


@contextmanager
def _within(part: str) -> Iterator[None]:
    """Make errors name the part of the body."""
    try:
        yield
    except InvalidRequest as error:
        error.field = f"{part}.{error.field or ''}"
        raise


def _mapping_of(model: Model) -> OpenrtbMapping:
    mapping = model.bundle.manifest.openrtb
    if mapping is None:
        raise NoOpenrtbMapping(
            f"the bundle {model.version} maps no BidRequests: declare [openrtb] in dataset.toml, and export it again"
        )
    return mapping


def _dumped(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a lone surrogate, which JSON escapes can express
        return json.dumps(document).encode()
