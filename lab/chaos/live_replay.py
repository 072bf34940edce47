"""Replays a test period over HTTP: requests of a moment are scored before its events are sent. Knows the wire format,
not the source of moments or the expected scores.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.chaos.replayed_period import ReplayedMoment
from loadtest.http_client import Reply, ServiceConnection, wait_until
from service.live.events import MAX_EVENTS


class LiveScores(NamedTuple):
    """Scores [n]; numbers of counted events, duplicates and degraded replies."""

    scores: NDArray[np.float64]
    accepted: int
    duplicates: int
    degraded: int


def replay_moments(
    url: str, moments: Iterable[ReplayedMoment], count: int, tells: bool, progress: Callable[[int], None]
) -> LiveScores:
    """Score `count` rows in the moments' order; with `tells`, send each event in time. Raises ClientError for the first
    invalid reply."""
    scores = np.full(count, np.nan)
    degraded = accepted = duplicates = 0
    waiting: list[dict[str, Any]] = []
    with ServiceConnection(url, timeout=60.0) as client:

        def send_events() -> None:
            """As late as possible, and in large batches."""
            nonlocal accepted, duplicates
            for start in range(0, len(waiting), MAX_EVENTS):
                told = tell(client, waiting[start : start + MAX_EVENTS])
                accepted, duplicates = accepted + told.accepted, duplicates + told.duplicates
            waiting.clear()

        for moment in moments:
            if moment.asked:
                send_events()
            for one in moment.asked:
                reply = json.loads(client.scored(json.dumps(one.request).encode()).body)
                scores[one.places] = reply["candidates"]["pctr"]
                degraded += "degraded" in reply
            if tells:
                waiting += moment.events
            progress(moment.rows)
        send_events()
    return LiveScores(scores, accepted, duplicates, degraded)


class BatchReply(NamedTuple):
    """Number of attempts until a batch was answered, and numbers of new and duplicate events."""

    tries: int
    accepted: int
    duplicates: int


def tell(client: ServiceConnection, events: Sequence[dict[str, Any]]) -> BatchReply:
    """Send events until they are answered: the service may be starting or restarting, and repetition is safe. Raises
    ClientError if it takes too long."""
    body, tries = json.dumps({"events": events}).encode(), 0

    def answer() -> Reply | None:
        nonlocal tries
        tries += 1
        reply = client.post("/v1/events", body)
        return None if reply.status == 503 else reply

    reply = wait_until("events are taken", answer)
    assert reply is not None
    reply.check(202)
    return BatchReply(tries, **json.loads(reply.body))
