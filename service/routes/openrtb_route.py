"""POST /v1/openrtb: converts a BidRequest to one /v1/score request per impression, scored like any other. Errors are
raised; `AccessMiddleware` answers them.
"""

import json
from asyncio import TaskGroup
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

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
from msd.contract.request import InvalidRequest
from service.errors import NoOpenrtbMapping
from service.http.exchange import access_of
from service.http.middleware import send_json
from service.routes.score_route import ScoreRoute
from service.scoring.answer import Headers, Translated
from service.scoring.deployment import Deployment
from service.scoring.model import Model
from service.scoring.reply import ScoreReply
from service.telemetry.metrics import OpenrtbUser

PATH = "/v1/openrtb"


class OpenrtbReply(BaseModel):
    """The replies of all named impressions, in the request's order."""

    id: str = Field(description="The BidRequest's.")
    consent: bool = Field(
        description="Whether the privacy signals let the user's identity be used; if not, nothing about it was."
    )
    imp: dict[str, ScoreReply] = Field(description="By imp.id, as /v1/score replies.")


class _Bids(NamedTuple):
    """A BidRequest, the scoring requests of its named impressions, and how many values do not fit their features."""

    bid_request: OpenrtbRequest
    identity: Identity
    imps: dict[str, Translated]
    unfit: int


class OpenrtbRoute(ScoreRoute):
    """The endpoint. All impressions together have the limits of one /v1/score request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = access_of(scope)
        raw, deployment = await self._begin(scope, receive)
        bids = await self._pipeline.parser.parse(raw.body, partial(self._translated, deployment, raw.request_id))
        try:
            async with TaskGroup() as group:
                tasks = [group.create_task(self._answer(deployment, raw, made)) for made in bids.imps.values()]
        except ExceptionGroup as failed:  # the first error has cancelled the others
            raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
        access.candidates = sum(answer.candidates for answer in answers)
        access.degraded = dict(sum((Counter(answer.degraded) for answer in answers), Counter[str]()))
        slowest = max(answers, key=lambda answer: sum(answer.stages))
        access.stages = slowest.stages
        (_, reply) = self._finish(bids, *(answer.body for answer in answers))
        await send_json(send, 200, reply, slowest.timing)
        for answer in answers:
            if answer.seen is not None:
                self._pipeline.follow(answer.seen)

    def translate(self, deployment: Deployment, request_id: str, body: bytes) -> Translated | None:
        """Return the scoring request of a BidRequest's only impression; None if it has several. Raises RequestError.
        In any thread."""
        bids = self._translated(deployment, request_id, body)
        if len(bids.imps) != 1:
            return None
        (made,) = bids.imps.values()
        return made._replace(finish=partial(self._finish, bids))

    def _translated(self, deployment: Deployment, request_id: str, body: bytes) -> _Bids:
        bid_request = parse_openrtb(body, self._settings.max_candidates)
        with _within("request"):
            # By the first arm's mapping, because the user determines the arm.
            identity = identity_of(_mapping_of(deployment.champion), bid_request.request)
            imps = impressions_of(bid_request.request)
        places = {imp: place for place, imp in enumerate(imps)}
        made, unfit = {}, 0
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
            made[imp] = Translated(request_id, own_id, _dumped(document), _unchanged, partial(_place_in, imp))
        return _Bids(bid_request, identity, made, unfit)

    def _finish(self, bids: _Bids, *replies: bytes) -> tuple[Headers, bytes]:
        """Return the reply; `replies`: of the scoring route, by impression."""
        identity = bids.identity
        self._metrics.openrtb_unfit.inc(bids.unfit)
        user: OpenrtbUser = "missing" if identity.user_id is None else "given"
        self._metrics.openrtb[user if identity.has_consent else "no_consent"].inc()
        imps = b",".join(b"%b:%b" % (orjson.dumps(imp), reply) for imp, reply in zip(bids.imps, replies, strict=True))
        head = orjson.dumps(bids.bid_request.request["id"]), orjson.dumps(identity.has_consent)
        return [(b"content-type", b"application/json")], b'{"id":%b,"consent":%b,"imp":{%b}}' % (*head, imps)


def _place_in(imp: str, field: str) -> str:
    return f"candidates.{imp}.{field.removeprefix('candidates.')}"


def _unchanged(reply: bytes) -> tuple[Headers, bytes]:
    return [], reply


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
