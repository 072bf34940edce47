"""Simulated ad server: sends scoring requests, some invalid, some for unknown ads and users, and events. Users click
with the predicted probability, so predictions are calibrated.
"""

import itertools
import json
import random
import time
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from lab.chaos.load import asking
from loadtest.http_client import ServiceConnection

_PAUSE_S = 0.03
_SHOWN = 3
# Old enough for the service to judge predictions at once.
_AGO_S, _CLICK_AFTER_S = 700.0, 5.0
_INVALID_EACH, _COLD_EACH, _UNKNOWN_EACH, _AGAIN_EACH = 11, 4, 7, 5


class SimulatedAdServer:
    """Sends requests and events in a separate thread, within `asking`. `statuses` are the replies."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self.statuses: Counter[int] = Counter()
        self._url = url
        self._documents = itertools.cycle([json.loads(body) for body in bodies])
        self._numbers = itertools.count(1)
        self._random = random.Random(0)

    def asking(self) -> AbstractContextManager[None]:
        """Run until the block's end; a missing reply counts as 0: the service may be starting or stopping."""
        return asking(self._url, _PAUSE_S, self._turn, lambda error: self.statuses.update([0]))

    def _turn(self, client: ServiceConnection) -> None:
        number = next(self._numbers)
        document = self._document(number)
        reply = client.score(json.dumps(document).encode())
        self.statuses[reply.status] += 1
        if reply.status != 200:
            return
        body = json.dumps({"events": self._events(number, document["user_id"], json.loads(reply.body))}).encode()
        for _ in range(2 if number % _AGAIN_EACH == 0 else 1):
            self.statuses[client.post("/v1/events", body).status] += 1

    def _document(self, number: int) -> dict[str, Any]:
        document = dict(next(self._documents))
        ids, bids = list(document["candidates"]["id"]), list(document["candidates"]["bid"])
        if number % _INVALID_EACH == 0:
            bids[0] = -1.0
        if number % _UNKNOWN_EACH == 0:
            document["user_id"] = f"nobody-{number}"
        if number % _COLD_EACH == 0:
            # Twice: a text that is encoded too late for the first is ready for the second.
            ids[-1] = f"new-{number // (2 * _COLD_EACH)}"
            document["items"] = {ids[-1]: {"text": f"{ids[-1]}: a film of a storm, and of {number % 97} who come home"}}
        return {**document, "candidates": {"id": ids, "bid": bids}}

    def _events(self, number: int, user_id: str, reply: dict[str, Any]) -> list[dict[str, Any]]:
        """Return past impressions and clicks of the first candidates, and a current impression."""
        now, ids = time.time(), reply["candidates"]["id"]
        events: list[dict[str, Any]] = [
            {"event_id": f"{number}-now", "type": "impression", "item_id": ids[-1], "at": now}
        ]
        for item_id, pctr in list(zip(ids, reply["candidates"]["pctr"], strict=True))[:_SHOWN]:
            seen = {"item_id": item_id, "request_id": reply["request_id"]}
            events.append({"event_id": f"{number}-{item_id}", "type": "impression", "at": now - _AGO_S, **seen})
            if self._random.random() < pctr:
                at = now - _AGO_S + _CLICK_AFTER_S
                events.append({"event_id": f"{number}-{item_id}-click", "type": "click", "at": at, **seen})
        return [{"user_id": user_id, **event} for event in events]
