"""A test period over HTTP, moment by moment: what is asked for is scored before anything of that moment is told.

Knows the wire, not where moments come from, nor what scores should be.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.http_client import Client, Reply, wait_until
from msd.contract.events import MAX_EVENTS


class ReplayedRequest(NamedTuple):
    """One request, and the places of its candidates among all scores."""

    request: dict[str, Any]
    places: list[int]


class ReplayedMoment(NamedTuple):
    """What was asked, and then happened, at one time. `rows`: how many rows of a dataset that is."""

    asked: list[ReplayedRequest]
    events: list[dict[str, Any]]
    rows: int


class LiveScores(NamedTuple):
    """Scores [n]; how many events were counted and how many had been before; how many replies were degraded."""

    scores: NDArray[np.float64]
    accepted: int
    duplicates: int
    degraded: int


def replay_moments(
    url: str, moments: Iterable[ReplayedMoment], count: int, tells: bool, progress: Callable[[int], None]
) -> LiveScores:
    """Scores `count` rows in the moments' order; where it `tells`, the service hears of each event in time.

    Raises ClientError at the first answer that is not one.
    """
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
    """Tells of events, as late as they are needed and as many at once as can be."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[dict[str, Any]] = []
        self.accepted = self.duplicates = 0

    def tell(self, events: Sequence[dict[str, Any]]) -> None:
        self._waiting += events
        while len(self._waiting) >= MAX_EVENTS:
            self._send(MAX_EVENTS)

    def flush(self) -> None:
        """Nothing is left untold."""
        if self._waiting:
            self._send(len(self._waiting))

    def _send(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        told = tell(self._client, batch)
        self.accepted += told.accepted
        self.duplicates += told.duplicates


class BatchReply(NamedTuple):
    """How often a batch was sent until it was answered, and how many of its events were new, and were not."""

    tries: int
    accepted: int
    duplicates: int


def tell(client: Client, events: Sequence[dict[str, Any]]) -> BatchReply:
    """Tells of events until that is answered: whoever counts them may not be there yet, or be started again, and to say
    them twice does no harm. Raises ClientError when it takes too long."""
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
