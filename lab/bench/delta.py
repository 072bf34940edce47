"""Measures how soon a changed row is used: in Redis an item gets another's row, and is scored until its score
changes.
"""

import json
import time

import numpy as np
from redis import Redis

from loadtest.http_client import ServiceConnection
from loadtest.processes import ProcessError
from service.redis.keys import key_prefix

_PATIENCE_S = 30.0
_MOVED = 0.5


def delta_visible_ms(bundle_id: str, redis: str, url: str, body: bytes) -> float:
    """Return the milliseconds from the row's change in Redis, as `msd publish --delta` writes it, until a reply has the
    new score.

    `body` is a request for candidates with different scores. Raises ProcessError if the change does not arrive.
    """
    request, prefix = json.loads(body), key_prefix(bundle_id, "item")
    with ServiceConnection(url) as client, Redis.from_url(redis) as rows:
        ids, scores = request["candidates"]["id"], client.scores(body)
        # The candidate with the lowest score gets the row of the one with the highest.
        item, before, after = ids[int(np.argmin(scores))], min(scores), max(scores)
        asked = json.dumps({**request, "candidates": {"id": [item]}}).encode()
        client.scores(asked)
        row = rows.get(prefix + ids[int(np.argmax(scores))])
        if row is None:
            raise ProcessError(f"{redis}: has no rows of the bundle {bundle_id}")
        rows.set(prefix + item, row)
        changed = time.monotonic()
        while abs(client.scores(asked)[0] - before) <= _MOVED * abs(after - before):
            if time.monotonic() > changed + _PATIENCE_S:
                raise ProcessError(f"a changed row was not scored with within {_PATIENCE_S:g} s")
        return round(1e3 * (time.monotonic() - changed), 1)
