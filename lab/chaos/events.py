"""Events are sent while the service and Redis are killed, and repeated until they are answered: each is counted once.
Also measures the events per second of a service with rows and states in files.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, cast

from redis import Redis

from lab.chaos.live_replay import BatchReply, tell
from lab.chaos.scenario import Check, Scenario, ScenarioResult
from lab.chaos.timeline import Mark, ScenarioTimeline
from loadtest.http_client import ServiceConnection, wait_until
from service.live.live_state import unpack_state
from service.redis.keys import live_key

_RATE = 20_000
_CLIENTS = 4
_ITEMS = 50
_LAG_S = 1e9


class _Answered(NamedTuple):
    """An answered batch, and when."""

    at: float
    events: int
    told: BatchReply


class Events(Scenario):
    """Answered events are counted, whatever is killed meanwhile."""

    name = "events"
    title = "Events while the service and Redis are killed"
    told = ("events_lost",)

    def run(self) -> ScenarioResult:
        timeline = ScenarioTimeline()
        batches = self._batches()
        with (
            self.environment.redis(self.name) as redis,
            self.environment.service(self.name, redis.url, live="on", live_lag_seconds=_LAG_S) as service,
            ThreadPoolExecutor(_CLIENTS) as pool,
        ):
            start = time.monotonic()

            def mark(what: str) -> None:
                timeline.marks.append(Mark(time.monotonic() - start, what))

            told = [pool.submit(_tell, service.url, batch) for batch in batches]
            wait_until("events are told", lambda: _share(told) >= 0.3)
            service.kill()
            mark("the service killed (−9)")
            service.start()
            wait_until("more events are told", lambda: _share(told) >= 0.6)
            redis.kill()
            mark("Redis killed (−9)")
            time.sleep(self.plan.broken_s / 5)
            redis.start()
            mark("Redis is back")
            answered = [one.result() for one in told]
            service.wait()
            again = [_tell(service.url, batch) for batch in batches]
            with redis.client() as client:
                counted = _counted(client)
        expected = Counter(str(event["item_id"]) for batch in batches for event in batch)
        wrong = sum(abs(counted[item] - count) for item, count in expected.items())
        missed = sum(one.told.accepted for one in again)
        told_again = sum(one.events for one in answered if one.told.tries > 1)
        rate = self._rate()
        timeline.levels = {"events told, in all": _sums(answered, start)}
        figures = self.named(lost=round(wrong + missed), told=expected.total(), told_again=told_again, a_second=rate)
        checks = (
            Check("every event is counted once", wrong == 0),
            Check("no answered event is new when it is sent again", missed == 0),
            Check("some had to be sent again", told_again > 0, True),
            Check(f"at least {_RATE:,} events a second", rate >= _RATE, True),
        )
        return ScenarioResult(figures, checks, timeline)

    def _batches(self) -> list[list[dict[str, object]]]:
        size, now = self.plan.events_a_batch, time.time()
        return [_batch(number, size, now) for number in range(self.plan.events // size)]

    def _rate(self) -> float:
        """Return the events per second of a service with files, in whole batches from a few clients."""
        states = self.folder / "states"
        shutil.rmtree(states, ignore_errors=True)
        batches = self._batches()
        with (
            self.environment.service(self.name, live="on", state_dir=states, live_lag_seconds=_LAG_S) as service,
            ThreadPoolExecutor(_CLIENTS) as pool,
        ):
            start = time.perf_counter()
            told = list(pool.map(lambda batch: _tell(service.url, batch), batches))
            return round(sum(one.events for one in told) / (time.perf_counter() - start), 1)


def _batch(number: int, size: int, at: float) -> list[dict[str, object]]:
    """Return impressions at one moment, of ads without rows, so that their counts are exact."""
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


def _tell(url: str, events: Sequence[dict[str, object]]) -> _Answered:
    with ServiceConnection(url) as client:
        return _Answered(told=tell(client, events), at=time.monotonic(), events=len(events))


def _share(told: "Sequence[Future[_Answered]]") -> float:
    return sum(one.done() for one in told) / len(told)


def _counted(client: "Redis") -> Counter[str]:
    """Return the impressions in Redis, by item."""
    items = [f"chaos-item-{number}" for number in range(_ITEMS)]
    found = Counter[str]()
    for item in items:
        kept = unpack_state(cast("bytes | None", client.get(live_key("item", item))))
        if kept is not None:
            found[item] = round(kept.state.impressions)
    return found


def _sums(told: Sequence[_Answered], start: float) -> list[tuple[float, float]]:
    """Return seconds, and the number answered by then."""
    done, points = 0, [(0.0, 0.0)]
    for one in sorted(told):
        done += one.events
        points.append((round(one.at - start, 3), float(done)))
    return points
