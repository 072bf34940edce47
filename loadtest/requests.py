"""Requests as bytes on the wire, in the format of each kind of service. Sends nothing."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from loadtest.traffic import Traffic

Form = Callable[[Sequence[bytes]], list[bytes]]
"""Converts our service's bodies to whole HTTP requests of another."""


def some_bodies(traffic: Traffic, count: int) -> list[bytes]:
    """Return a number of bodies from a stream."""
    return list(islice(traffic.bodies(), count))


def in_columns(bodies: Sequence[bytes]) -> list[bytes]:
    """Return requests for our service."""
    return [http_request("/v1/score", body) for body in bodies]


def in_objects(bodies: Sequence[bytes]) -> list[bytes]:
    """Return requests for the naive service: a list of objects, one per candidate."""
    return [http_request("/score", json.dumps(_in_objects(json.loads(body))).encode()) for body in bodies]


def http_request(path: str, body: bytes, **headers: str) -> bytes:
    """Return a POST, ready to send; of JSON, unless its Content-Type says otherwise."""
    named = {"Host": "service", "Content-Type": "application/json", "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def headers_of(request: bytes) -> dict[str, str]:
    """Return the headers of such bytes."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def _in_objects(document: dict[str, Any]) -> dict[str, Any]:
    candidates = document["candidates"]
    objects = [{"id": one, "bid": bid} for one, bid in zip(candidates["id"], candidates["bid"], strict=True)]
    return {"user_id": document["user_id"], "candidates": objects}
