"""Bundle served by `msd serve` with one scoring thread: cost of its requests, and its scores of pages."""

import http.client
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.demo.serving import run_service
from msd.free_port import free_port
from msd.process import held, processor_seconds
from msd.savings.capacity import RequestCost
from msd.savings.pages import Page

_WARMUP = 100
_JSON = {"Content-Type": "application/json"}
_SETTINGS = {"MSD_STORE": "file", "MSD_WORKERS": "1", "MSD_DEADLINE_MS": "60000", "MSD_LOG_LEVEL": "warning"}


def served(
    name: str,
    bundle: Path,
    pages: Sequence[Page],
    candidates: int,
    requests: int,
    logs: Path,
    told: Callable[[int], None],
) -> tuple[RequestCost, list[NDArray[np.float64]]]:
    """Return the cost of a request, and the scores of each page's labelled items.

    Raises MsdError if the service does not start or does not score a request.
    """
    with (
        run_service(bundle, logs / f"{name}.log", free_port(), **_SETTINGS) as (url, process),
        # A minimal client, because the service is timed, not the client.
        closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60.0)) as client,
    ):
        scores = [np.array(_scored(client, page, len(page.labels))[0]) for page in pages]
        for number in range(_WARMUP):
            _scored(client, pages[number % len(pages)], candidates)
        before, seconds = processor_seconds(process.pid), []
        for number in range(requests):
            seconds.append(_scored(client, pages[number % len(pages)], candidates)[1])
            told(number + 1)
        taken = processor_seconds(process.pid) - before
        return RequestCost(candidates, statistics.median(seconds), taken / requests, held(process.pid).memory), scores


def _scored(client: http.client.HTTPConnection, page: Page, count: int) -> tuple[list[float], float]:
    """Return pCTR of a page's first items, and the seconds until the reply."""
    body = json.dumps(page.request(count)).encode()
    start = time.perf_counter()
    try:
        client.request("POST", "/v1/score", body, _JSON)
        reply = client.getresponse()
        content = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise MsdError(f"the service gave no reply: {error or type(error).__name__}") from error
    seconds = time.perf_counter() - start
    if reply.status != 200:
        raise MsdError(f"the service answered {reply.status}: {content[:300].decode(errors='replace')}")
    scores: list[float] = json.loads(content)["candidates"]["pctr"]
    return scores, seconds
