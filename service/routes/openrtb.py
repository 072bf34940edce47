"""POST /v1/openrtb: converts a BidRequest to one /v1/score request per impression, scored like any other."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel, Field

from msd.contract.openrtb import (
    Identity,
    OpenrtbMapping,
    OpenrtbRequest,
    context_of,
    identity_of,
    impressions_of,
    read_openrtb,
)
from msd.contract.request import InvalidRequest
from service.errors import NoOpenrtbMapping
from service.json_parser import JsonParser
from service.scoring.answer import Headers, Translated
from service.scoring.deployment import Deployment
from service.scoring.model import Model
from service.scoring.reply import ScoreReply
from service.telemetry.metrics import Metrics, OpenrtbUser

PATH = "/v1/openrtb"


class OpenrtbReply(BaseModel):
    """The replies of all named impressions, in the request's order."""

    id: str = Field(description="The BidRequest's.")
    consent: bool = Field(
        description="Whether the privacy signals let the user's identity be used; if not, nothing about it was."
    )
    imp: dict[str, ScoreReply] = Field(description="By imp.id, as /v1/score replies.")


class OpenrtbForm:
    """The form of requests, for any thread. All impressions together have the limits of one /v1/score request."""

    def __init__(self, parser: JsonParser, metrics: Metrics, max_candidates: int) -> None:
        self._parser, self._metrics, self._max_candidates = parser, metrics, max_candidates

    def translate(self, deployment: Deployment, request_id: str, body: bytes) -> Translated:
        """Return the scoring request of each named impression. Raises RequestError, BodyTooLarge,
        NoOpenrtbMapping."""
        bid_request = read_openrtb(self._parser.load(body), self._max_candidates)
        with _within("request"):
            # By the first arm's mapping, because the user determines the arm.
            identity = identity_of(_mapping_of(deployment.champion), bid_request.request)
            imps = impressions_of(bid_request.request)
        places = {imp: place for place, imp in enumerate(imps)}
        more = {name: value for name in ("at", "top_k") if (value := getattr(bid_request, name)) is not None}
        parts, unfit = [], 0
        for imp, candidates in bid_request.candidates.items():
            if imp not in imps:
                raise InvalidRequest("is not the ID of an impression of the request", f"candidates.{imp}")
            own_id = f"{request_id}/{places[imp]}"
            model = deployment.arm_of(identity.user_id or own_id).model
            fields = model.schema.settable["context"]
            context, odd = context_of(_mapping_of(model), fields, bid_request.request, imps[imp], identity)
            unfit += len(odd)
            columns = {name: column for name, column in candidates if column is not None}
            document = {"user_id": identity.user_id, "context": context, "candidates": columns, **more}
            parts.append((own_id, _dumped(document)))
        named = list(bid_request.candidates)
        return Translated(
            request_id,
            parts,
            None,
            partial(self._finish, bid_request, identity, unfit),
            lambda part, field: f"candidates.{named[part]}.{field.removeprefix('candidates.')}",
        )

    def _finish(
        self, bid_request: OpenrtbRequest, identity: Identity, unfit: int, replies: list[bytes]
    ) -> tuple[Headers, bytes]:
        """Return the reply. `unfit`: the number of values that do not fit their features."""
        self._metrics.openrtb_unfit.inc(unfit)
        user: OpenrtbUser = "missing" if identity.user_id is None else "given"
        self._metrics.openrtb[user if identity.has_consent else "no_consent"].inc()
        named = zip(bid_request.candidates, replies, strict=True)
        imps = b",".join(b"%b:%b" % (orjson.dumps(imp), reply) for imp, reply in named)
        head = orjson.dumps(bid_request.request["id"]), orjson.dumps(identity.has_consent)
        return [(b"content-type", b"application/json")], b'{"id":%b,"consent":%b,"imp":{%b}}' % (*head, imps)


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
