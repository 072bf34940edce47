"""Replays a test period over HTTP: requests of a moment are scored before its events are sent. Knows the wire format,
not the source of moments or the expected scores.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.http_client import Client, Reply, wait_until
from msd.contract.events import MAX_EVENTS


class ReplayedRequest(NamedTuple):
    """One request, and its candidates' indices among all scores."""

    request: dict[str, Any]
    places: list[int]


class ReplayedMoment(NamedTuple):
    """Requests, then events, of one moment. `rows`: the number of dataset rows."""

    asked: list[ReplayedRequest]
    events: list[dict[str, Any]]
    rows: int


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
    degraded = 0
    with Client(url, timeout=60.0) as client:
        teller = _Teller(client)
        for moment in moments:
            if moment.asked:
                teller.flush()
            for one in moment.asked:
                reply = json.loads(client.scored(json.dumps(one.request).encode()).body)
                scores[one.places] = reply["candidates"]["pctr"]
                degraded += "degraded" in reply
            if tells:
                teller.tell(moment.events)
            progress(moment.rows)
        teller.flush()
    return LiveScores(scores, teller.accepted, teller.duplicates, degraded)


class _Teller:
    """Sends events as late as possible and in large batches."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[dict[str, Any]] = []
        self.accepted = self.duplicates = 0

    def tell(self, events: Sequence[dict[str, Any]]) -> None:
        self._waiting += events
        while len(self._waiting) >= MAX_EVENTS:
            self._send(MAX_EVENTS)

    def flush(self) -> None:
        """Send all remaining events."""
        if self._waiting:
            self._send(len(self._waiting))

    def _send(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        told = tell(self._client, batch)
        self.accepted += told.accepted
        self.duplicates += told.duplicates


class BatchReply(NamedTuple):
    """Number of attempts until a batch was answered, and numbers of new and duplicate events."""

    tries: int
    accepted: int
    duplicates: int


def tell(client: Client, events: Sequence[dict[str, Any]]) -> BatchReply:
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
