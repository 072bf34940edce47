"""POST /v1/openrtb: converts a BidRequest to one /v1/score request per impression, scored like any other.

The core converts (`native/core/openrtb.hpp`); what it refuses is for here.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, Field

from msd.contract.openrtb import (
    OpenrtbMapping,
    context_of,
    id_of,
    identity_of,
    impressions_of,
    read_openrtb,
)
from msd.contract.request import InvalidRequest
from native import core
from service.errors import NoOpenrtbMapping
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


def translate_impressions(
    deployment: Deployment, request_id: str, document: object, max_candidates: int, metrics: Metrics
) -> "core.Translation":
    """Return the scoring request of each named impression; all together have the limits of one. Raises RequestError,
    NoOpenrtbMapping."""
    asked = read_openrtb(document, max_candidates)
    bid_request = asked.request
    try:
        own_id, imps = id_of(bid_request), impressions_of(bid_request)
        # By the first arm's mapping, because the user determines the arm.
        identity = identity_of(_mapping_of(deployment.champion), bid_request)
    except InvalidRequest as error:
        error.field = f"request.{error.field}"
        raise
    places = {imp: place for place, imp in enumerate(imps)}
    more = {name: value for name in ("at", "top_k") if (value := getattr(asked, name)) is not None}
    parts, unfit = [], 0
    for imp, candidates in asked.candidates.items():
        if imp not in imps:
            raise InvalidRequest("is not the ID of an impression of the request", f"candidates.{imp}")
        part_id = f"{request_id}/{places[imp]}"
        model = deployment.arm_of(identity.user_id or part_id).model
        fields = model.schema.settable["context"]
        context, odd = context_of(_mapping_of(model), fields, bid_request, imps[imp], identity)
        unfit += len(odd)
        columns = {name: column for name, column in candidates if column is not None}
        document = {"user_id": identity.user_id, "context": context, "candidates": columns, **more}
        parts.append((part_id, _dumped(document)))
    if unfit:
        metrics.openrtb_unfit.inc(unfit)
    user: OpenrtbUser = "missing" if identity.user_id is None else "given"
    metrics.openrtb[user if identity.has_consent else "no_consent"].inc()
    named = list(asked.candidates)
    pieces = [b",%b:" % orjson.dumps(imp) for imp in named]
    head = orjson.dumps({"id": own_id, "consent": identity.has_consent}).removesuffix(b"}")
    pieces[0] = b'%b,"imp":{%b' % (head, pieces[0][1:])
    return core.Translation(
        shown_id=request_id,
        parts=parts,
        timeout_s=None,
        reply=[*pieces, b"}}"],
        outputs=None,
        place_of=lambda part, field: f"candidates.{named[part]}.{field.removeprefix('candidates.')}",
    )


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
