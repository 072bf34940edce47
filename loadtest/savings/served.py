"""A bundle served by `msd serve` with one scoring thread: what its requests take, and its scores of pages."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.bench.processes import Running, ours
from loadtest.chaos.processes import held
from loadtest.http_client import Client, ClientError
from loadtest.savings.pages import Page
from loadtest.savings.spent import Spent, processor_seconds

_WARMUP = 100


def served(
    name: str,
    bundle: Path,
    pages: Sequence[Page],
    candidates: int,
    requests: int,
    logs: Path,
    told: Callable[[int], None],
) -> tuple[Spent, list[NDArray[np.float64]]]:
    """What a request takes, and the scores of each page's labelled items.

    Raises MsdError where it does not start or does not score a request.
    """
    service = Running(ours(name, bundle, 1, None, deadline_ms=60_000), logs)
    try:
        service.wait()
        with Client(service.url) as client:
            scores = [np.array(_scored(client, page, len(page.labels))[0]) for page in pages]
            for number in range(_WARMUP):
                _scored(client, pages[number % len(pages)], candidates)
            before, seconds = processor_seconds(service), []
            for number in range(requests):
                seconds.append(_scored(client, pages[number % len(pages)], candidates)[1])
                told(number + 1)
            taken = processor_seconds(service) - before
        return Spent(candidates, statistics.median(seconds), taken / requests, held(service).memory), scores
    finally:
        service.terminate()
        service.join()


def _scored(client: Client, page: Page, count: int) -> tuple[list[float], float]:
    """pCTR of the first items of a page, and the seconds until they were there."""
    reply = client.score(json.dumps(page.request(count)).encode())
    if reply.status != 200:
        raise ClientError(f"answered {reply.status}: {reply.body[:300].decode(errors='replace')}")
    scores: list[float] = json.loads(reply.body)["candidates"]["pctr"]
    return scores, reply.seconds
