"""The same requests as BidRequests of one impression. Sends nothing."""

import json
from enum import StrEnum
from typing import Any

from msd.contract.errors import MsdError
from msd.contract.openrtb import OpenrtbMapping

SCORE, OPENRTB = "/v1/score", "/v1/openrtb"
IMPRESSION = "1"


class Route(StrEnum):
    """How requests are sent."""

    SCORE = "score"
    OPENRTB = "openrtb"


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
