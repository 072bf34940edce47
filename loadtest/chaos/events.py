"""Events are told while the service and Redis, which keeps them, are killed; told again until they are answered, each
is counted once. Beside it, how many a second are taken in, where rows and states are in files.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, cast

from redis import Redis

from loadtest.chaos.environment import Environment
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import Mark, Timeline
from loadtest.http_client import Client, ClientError
from msd.contract.live_state import unpack_state
from msd.contract.redis_keys import live_key

_NAME = "events"
_RATE = 20_000
_CLIENTS = 4
_ITEMS = 50
_PAUSE_S = 0.05
_PATIENCE_S = 60.0
_LAG_S = 1e9


class _Told(NamedTuple):
    """A batch that was answered: when, and how often it was sent."""

    at: float
    events: int
    tries: int
    accepted: int
    duplicates: int


def _run(environment: Environment) -> Found:
    plan = environment.plan
    timeline = Timeline()
    now = time.time()
    batches = [_batch(number, plan.events_a_batch, now) for number in range(plan.events // plan.events_a_batch)]
    with (
        environment.redis(_NAME) as redis,
        environment.service(_NAME, redis.url, live="on", live_lag_seconds=_LAG_S) as service,
        ThreadPoolExecutor(_CLIENTS) as pool,
    ):
        start = time.monotonic()
        told = [pool.submit(_tell, service.url, batch) for batch in batches]
        _wait_for_share(told, 0.3)
        service.kill()
        timeline.marks.append(Mark(time.monotonic() - start, "the service killed (−9)"))
        service.start()
        _wait_for_share(told, 0.6)
        redis.kill()
        timeline.marks.append(Mark(time.monotonic() - start, "Redis killed (−9)"))
        time.sleep(plan.broken_s / 5)
        redis.start()
        timeline.marks.append(Mark(time.monotonic() - start, "Redis is back"))
        answered = [one.result() for one in told]
        service.wait()
        again = [_tell(service.url, batch) for batch in batches]
        with redis.client() as client:
            counted = _counted(client)
    expected = Counter[str]()
    for batch in batches:
        expected.update(str(event["item_id"]) for event in batch)
    wrong = sum(abs(counted[item] - count) for item, count in expected.items())
    missed = sum(one.accepted for one in again)
    rate = _rate(environment)
    timeline.levels = {"events told, in all": _sums(answered, start)}
    return Found(
        {
            "events_lost": round(wrong + missed),
            "events_told": sum(expected.values()),
            "events_told_again": sum(one.tries > 1 for one in answered) * plan.events_a_batch,
            "events_a_second": rate,
        },
        (
            Check("every event is counted once", wrong == 0),
            Check("none that was answered is new when it is told again", missed == 0),
            Check("some had to be told again", any(one.tries > 1 for one in answered), True),
            Check(f"at least {_RATE:,} events a second", rate >= _RATE, True),
        ),
        timeline,
    )


def _batch(number: int, size: int, at: float) -> list[dict[str, object]]:
    """Impressions at one moment, of ads without rows: their counts are just how many there were."""
    return [
        {
            "event_id": f"{number}-{one}",
            "type": "impression",
            "user_id": f"chaos-user-{one % 97}",
            "item_id": f"chaos-item-{(number * size + one) % _ITEMS}",
            "at": at,
        }
        for one in range(size)
    ]


def _tell(url: str, events: Sequence[dict[str, object]]) -> _Told:
    """Until it is answered: what is told again is the same. Raises ClientError when that takes too long."""
    body = json.dumps({"events": events}).encode()
    until, tries = time.monotonic() + _PATIENCE_S, 0
    while time.monotonic() < until:
        tries += 1
        try:
            with Client(url) as client:
                reply = client.post("/v1/events", body, {"Content-Type": "application/json"})
            if reply.status == 202:
                return _Told(time.monotonic(), len(events), tries, **json.loads(reply.body))
            if reply.status != 503:
                raise ClientError(f"{url}: events were answered with {reply.status}: {reply.body[:300]!r}")
        except ClientError:
            if time.monotonic() + _PAUSE_S > until:
                raise
        time.sleep(_PAUSE_S)
    raise ClientError(f"{url}: events were not taken within {_PATIENCE_S:g} s")


def _wait_for_share(told: "Sequence[Future[_Told]]", share: float) -> None:
    until = time.monotonic() + _PATIENCE_S
    while sum(one.done() for one in told) < share * len(told) and time.monotonic() < until:
        time.sleep(0.001)


def _counted(client: "Redis") -> Counter[str]:
    """The impressions that Redis holds, by item."""
    items = [f"chaos-item-{number}" for number in range(_ITEMS)]
    found = Counter[str]()
    for item in items:
        kept = unpack_state(cast("bytes | None", client.get(live_key("item", item))))
        if kept is not None:
            found[item] = round(kept.state.impressions)
    return found


def _rate(environment: Environment) -> float:
    """Events a second of a service over files, in whole batches from a few clients."""
    plan = environment.plan
    states = environment.work / _NAME / "states"
    shutil.rmtree(states, ignore_errors=True)
    now = time.time()
    batches = [_batch(number, plan.events_a_batch, now) for number in range(plan.events // plan.events_a_batch)]
    with (
        environment.service(_NAME, live="on", state_dir=states, live_lag_seconds=_LAG_S) as service,
        ThreadPoolExecutor(_CLIENTS) as pool,
    ):
        start = time.perf_counter()
        told = list(pool.map(lambda batch: _tell(service.url, batch), batches))
        return round(sum(one.events for one in told) / (time.perf_counter() - start), 1)


def _sums(told: Sequence[_Told], start: float) -> list[tuple[float, float]]:
    """Seconds, and how many had been answered by then."""
    done, points = 0, [(0.0, 0.0)]
    for one in sorted(told):
        done += one.events
        points.append((round(one.at - start, 3), float(done)))
    return points


EVENTS = Scenario(_NAME, "Events while the service and Redis are killed", ("events_lost",), _run)
