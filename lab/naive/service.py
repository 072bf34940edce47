"""The naive service as a child process, and requests in its form."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.processes import Service
from loadtest.requests import http_request


def naive(name: str, bundle: Path, graph: Path, workers: int, redis: str | None) -> Service:
    """Return the naive service on uvicorn with a number of worker processes, rows from Redis or from memory."""
    factory = ("--factory", "lab.naive.app:app", "--workers", str(workers), "--port", "{port}")
    where = {"NAIVE_BUNDLE": str(bundle), "NAIVE_GRAPH": str(graph)}
    return Service(
        name,
        (sys.executable, "-m", "uvicorn", *factory, "--no-access-log", "--log-level", "warning"),
        where if redis is None else {**where, "NAIVE_REDIS": redis},
        "/health",
    )


def in_objects(bodies: Sequence[bytes]) -> list[bytes]:
    """Return our service's bodies as HTTP requests for the naive one: a list of objects, one per candidate."""
    return [http_request("/score", json.dumps(_in_objects(json.loads(body))).encode()) for body in bodies]


def _in_objects(document: dict[str, Any]) -> dict[str, Any]:
    ids, bids = document["candidates"]["id"], document["candidates"]["bid"]
    objects = [{"id": item_id, "bid": bid} for item_id, bid in zip(ids, bids, strict=True)]
    return {"user_id": document["user_id"], "candidates": objects}
