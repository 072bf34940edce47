"""Sends requests whose scores are known to a service, and finds the greatest difference."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.http_client import Client, ClientError
from msd.contract.errors import MsdError


class Replayed(NamedTuple):
    """What a replay found. `twin_differences` counts replies whose scores were not those of the other service."""

    requests: int
    candidates: int
    max_abs_diff: float
    degraded: int
    twin_differences: int | None


def replay(path: Path, url: str, twin: str | None, progress: Callable[[], None]) -> Replayed:
    """Replays the file's requests, in order. Raises MsdError at the first that is not answered with 200."""
    clients = [Client(address) for address in (url, twin) if address]
    requests = candidates = degraded = differences = 0
    worst = 0.0
    for number, recorded in _recorded(path):
        replies = [_scores(client, json.dumps(recorded["request"]).encode(), f"{path}:{number}") for client in clients]
        expected = recorded["expected"]["pctr"]
        found = replies[0]["candidates"]["pctr"]
        worst = max(worst, *(abs(a - b) for a, b in zip(expected, found, strict=True)))
        differences += any(reply["candidates"] != replies[0]["candidates"] for reply in replies)
        degraded += "degraded" in replies[0]
        requests += 1
        candidates += len(found)
        progress()
    return Replayed(requests, candidates, worst, degraded, differences if twin else None)


def count_requests(path: Path) -> int:
    """How many requests a file holds."""
    return sum(1 for _ in _recorded(path))


def _recorded(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                recorded = json.loads(line)
                if not isinstance(recorded, dict) or not {"request", "expected"} <= recorded.keys():
                    raise MsdError(f"{path}:{number}: not a recorded request; `msd export --replay` writes such files")
                yield number, recorded
    except OSError as error:
        raise MsdError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise MsdError(f"{path}: not JSON lines; `msd export --replay` writes such files") from None


def _scores(client: Client, body: bytes, place: str) -> dict[str, Any]:
    reply = client.score(body)
    if reply.status != 200:
        raise ClientError(f"{place}: answered {reply.status}: {reply.body[:300].decode(errors='replace')}")
    scores: dict[str, Any] = json.loads(reply.body)
    return scores
