"""Requests as the bytes that go over the wire, in the form that each kind of service reads. Sends nothing."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from loadtest.traffic import Traffic

Form = Callable[[Sequence[bytes]], list[bytes]]
"""Bodies of our own service → whole HTTP requests of another's."""


def some_bodies(traffic: Traffic, count: int) -> list[bytes]:
    """So many bodies of a stream."""
    return list(islice(traffic.bodies(), count))


def in_columns(bodies: Sequence[bytes]) -> list[bytes]:
    """Requests for our own service."""
    return [http_request("/v1/score", body) for body in bodies]


def in_objects(bodies: Sequence[bytes]) -> list[bytes]:
    """The same for the naive service: a list of objects, one a candidate."""
    return [http_request("/score", json.dumps(_in_objects(json.loads(body))).encode()) for body in bodies]


def http_request(path: str, body: bytes, media_type: str = "application/json") -> bytes:
    """A POST, ready to be written to a connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _in_objects(document: dict[str, Any]) -> dict[str, Any]:
    candidates = document["candidates"]
    objects = [{"id": one, "bid": bid} for one, bid in zip(candidates["id"], candidates["bid"], strict=True)]
    return {"user_id": document["user_id"], "candidates": objects}
