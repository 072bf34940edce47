"""Requests as bytes on the wire, as scoring requests or as BidRequests of one impression. Sends nothing."""

import json
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from typing import Any

from loadtest.traffic import Traffic
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


def some_bodies(traffic: Traffic, count: int) -> list[bytes]:
    """Return a number of bodies from a stream."""
    return list(islice(traffic.bodies(), count))


def in_columns(bodies: Sequence[bytes]) -> list[bytes]:
    """Return scoring requests."""
    return [http_request(SCORE, body) for body in bodies]


def http_request(path: str, body: bytes, **headers: str) -> bytes:
    """Return a POST, ready to send; of JSON, unless its Content-Type says otherwise."""
    named = {"Host": "service", "Content-Type": "application/json", "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
