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


def http_request(path: str, body: bytes, **headers: str) -> bytes:
    """A POST, ready to be written to a connection; of JSON, unless its Content-Type says otherwise."""
    named = {"Host": "service", "Content-Type": "application/json", "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def headers_of(request: bytes) -> dict[str, str]:
    """The headers of such bytes."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def _in_objects(document: dict[str, Any]) -> dict[str, Any]:
    candidates = document["candidates"]
    objects = [{"id": one, "bid": bid} for one, bid in zip(candidates["id"], candidates["bid"], strict=True)]
    return {"user_id": document["user_id"], "candidates": objects}
