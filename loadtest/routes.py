"""The same requests by other routes: as BidRequests of one impression, or in two phases. Sends nothing."""

import json
from enum import StrEnum
from typing import Any

from msd.contract.errors import MsdError
from msd.contract.openrtb import OpenrtbMapping

SCORE, OPENRTB, PREPARE = "/v1/score", "/v1/openrtb", "/v1/prepare"
IMPRESSION = "1"
_OF_USER = ("user_id", "at", "context", "user")


class Route(StrEnum):
    """How requests are sent."""

    SCORE = "score"
    OPENRTB = "openrtb"
    TWO_PHASES = "two-phases"


def as_bid_request(body: bytes, mapping: OpenrtbMapping) -> bytes:
    """Return a body of /v1/score as one of /v1/openrtb, with the user and the mapped features at their paths.

    Unmapped features are left out. Raises MsdError for a body with texts or features of ads, which the route refuses.
    """
    document = json.loads(body)
    if "items" in document:
        raise MsdError("BidRequests take no texts or features of ads: set the share of unknown ads to 0")
    imp: dict[str, Any] = {"id": IMPRESSION}
    request: dict[str, Any] = {"id": "load", "imp": [imp]}
    context = document.get("context") or {}
    values = {mapping.user_id[0]: document["user_id"]}
    values |= {path: context[name] for name, path in mapping.features.items() if name in context}
    for path, value in values.items():
        *way, last = path.split(".")
        place = request
        for key in way:
            place = imp if key == "imp" and place is request else place.setdefault(key, {})
        place[last] = value
    more = {name: document[name] for name in ("at", "top_k") if name in document}
    return json.dumps({"request": request, "candidates": {IMPRESSION: document["candidates"]}, **more}).encode()


def user_of(body: bytes) -> bytes:
    """Return the part of a body that /v1/prepare takes."""
    document = json.loads(body)
    return json.dumps({name: document[name] for name in _OF_USER if name in document}).encode()


def rest_of(body: bytes, reply: bytes) -> bytes:
    """Return the other part, for /v1/score, with the token of a reply of /v1/prepare."""
    document = {name: value for name, value in json.loads(body).items() if name not in _OF_USER}
    return json.dumps({"prepared": json.loads(reply)["prepared"], **document}).encode()
