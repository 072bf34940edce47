"""A day of life: mixed traffic for as long as is asked, while all that may change or break takes turns.

Afterwards each reply is compared with the request log, and the log is scored again.
"""

import itertools
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lab.bench.redis import RedisProcess
from lab.chaos.bundles import good_bundle, mapped_bundle
from lab.chaos.chores import CHORES, Chores, Keys
from lab.chaos.clock import ShiftedClock
from lab.chaos.load import BackgroundLoad, asking
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import DEGRADED, SCORED, Kind, Sample, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ClientError, ServiceConnection
from loadtest.processes import msd_output
from loadtest.requests import OPENRTB, SCORE, as_bid_request, http_request
from loadtest.traffic import Traffic
from msd.contract.bundle import open_bundle
from msd.contract.errors import MsdError
from msd.feedback.files import read_requests

_SIZES = {1: 3.0, 5: 5.0, 20: 2.0, 100: 0.2}
_COLD = 0.02
_FORMS: tuple[dict[str, Any], ...] = ({}, {"top_k": 3}, {"explore": {"policy": "thompson"}}, {}, {"explain": True}, {})
"""Parts of requests, by turns."""
_DEADLINE_MS = 5_000
_EVENTS, _EVENTS_S = 20, 1.0
_T = TypeVar("_T")
_MORE_FILES = 16
"""Connections that are just opened or closed."""
# Of medians, between the second quarter, when what is bounded is full, and the last.
_MORE_MEMORY, _MORE_CPU = 0.1, 0.25
_WARM_UP_S = 150.0
# Bounds that a service reaches within days; here they are reached within minutes.
_BOUNDS = {"MAX_REMEMBERED": 10_000}
_CACHE_MB = 8
_DROPPED = "dropped records"


def day(run: Run) -> None:
    """Chores take turns until the time is over and each has had one."""
    if run.other is None:
        raise Unable("it takes two bundles of the same users and items: name another one by --other")
    run.hear("making bundles")
    bundles, log = run.folder / "bundles", run.folder / "log"
    first, second = (
        good_bundle(mapped_bundle(source, run.folder / f"mapped-{name}"), bundles / name, name)
        for name, source in (("a", run.bundle), ("b", run.other))
    )
    keys, clock = Keys(run.folder / "keys.json"), ShiftedClock(run.folder)
    with RedisProcess(run.folder / "redis") as redis:
        for bundle in (second, first):
            redis.publish(bundle)
        settings: dict[str, Any] = {
            "keys_file": keys.path,
            "corrections": run.folder / "corrections.json",
            "explore_share": 0.2,
        }
        settings |= {"live": "on", "log_dir": log, "log_sample": 1.0, "log_max_mb": 16_384, "cache_mb": _CACHE_MB}
        with run.service(
            redis.url, bundle=bundles, preload=clock.library, limits=_BOUNDS, deadline_ms=_DEADLINE_MS, **settings
        ) as service:
            today = Day(Chores(run, service, redis, keys, clock, first, second))
            load = today.spend()
            dropped = [*load.timeline.levels.get(_DROPPED, []), (load.now_s, today.dropped())]
            service.terminate()
            status = service.wait_for_end()
    run.check(f"the service ends in order: {status}", status == 0)
    run.timeline = load.timeline
    run.hear("comparing replies with the log")
    _check_replies(run, load, log, dropped)
    run.hear("scoring the log again")
    options = [part for bundle in (first, second) for part in ("--bundle", str(bundle))]
    replayed = json.loads(msd_output("replay", str(log), *options, "--json"))
    run.figures |= {f"replay_{name}": replayed[name] for name in ("requests", "exact", "mismatches", "max_abs_diff")}
    run.check("every logged score is reproduced to the bit", replayed["mismatches"] == 0)
    run.check("all were compared to the bit", replayed["exact"] == replayed["requests"] > 0 and not replayed["skipped"])


class Day:
    """The load, and what it shows while chores are done."""

    def __init__(self, chores: Chores) -> None:
        self._chores, self.run, self._service = chores, chores.run, chores.service
        self._events = Counter[str]()
        self._cpu: tuple[float, float] | None = None

    def spend(self) -> BackgroundLoad:
        """Load the service, do all chores by turns, and add figures and checks."""
        run, plan = self.run, self.run.plan
        with (
            BackgroundLoad(self._target(), plan.day_rate, plan.day_s) as load,
            asking(
                self._service.url, _EVENTS_S, self._send_events(), lambda error: self._events.update(["unreachable"])
            ),
        ):
            for turn in itertools.count():
                chore = list(CHORES)[turn % len(CHORES)]
                if load.now_s > plan.day_s and turn >= len(CHORES):
                    break
                run.hear(chore, round(load.now_s), round(plan.day_s))
                try:
                    CHORES[chore](self._chores)
                except MsdError as error:
                    self._chores.wrong[f"{chore}: {error}"] += 1
                load.mark(chore)
                self._chores.done[chore] += 1
                time.sleep(plan.chore_s)
                self._measure(load.now_s)
        load.timeline.levels = run.timeline.levels | _shares(load.timeline.samples)
        self._judge(load)
        return load

    def _measure(self, now_s: float) -> None:
        """Add what the service uses to the timeline: CPU since the previous time."""
        levels = self.run.timeline.levels
        self.run.usage(self._service.pid, now_s)
        stat = Path(f"/proc/{self._service.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = now_s, sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")
        if self._cpu is not None:
            used = 100 * (cpu[1] - self._cpu[1]) / (cpu[0] - self._cpu[0])
            levels.setdefault("CPU, % of a core", []).append((round(now_s, 1), round(used, 1)))
        self._cpu = cpu
        levels.setdefault("load of the machine", []).append((round(now_s, 1), os.getloadavg()[0]))
        with suppress(ClientError):  # starved; then the next reading tells
            levels.setdefault(_DROPPED, []).append((now_s, self.dropped()))

    def dropped(self) -> float:
        """Return how many records of the request log the service has dropped."""
        with ServiceConnection(self._service.url) as client:
            return client.metric('msd_log_records_total{result="dropped"}')

    def _target(self) -> Target:
        """Return requests of all forms."""
        plan, mapping = self.run.plan, open_bundle(self._chores.first).manifest.openrtb
        assert mapping is not None, "the bundle maps BidRequests"
        some = max(1, round(1.2 * plan.day_rate * plan.day_s))
        known, cold = (Traffic(self._chores.first, _SIZES, self.run.seed, share).bodies() for share in (0.0, _COLD))
        requests = []
        for number in range(some):
            if number % 10 == 0:
                requests.append(self._request(OPENRTB, as_bid_request(next(known), mapping)))
                continue
            document = json.loads(next(cold)) | _FORMS[number % len(_FORMS)]
            if number % 3:
                del document["at"]
            requests.append(self._request(SCORE, json.dumps(document).encode()))
        return Target(self._service.url, requests)

    def _request(self, path: str, body: bytes) -> bytes:
        return http_request(path, body, Authorization=f"Bearer {self._chores.keys.lasting}")

    def _send_events(self) -> Callable[[ServiceConnection], None]:
        """Return what sends a batch of events: the last one again, if that was not accepted."""
        bodies, batches = Traffic(self._chores.first, 1, seed=self.run.seed + 1).bodies(), itertools.count()
        waiting: list[bytes] = []

        def events() -> bytes:
            number, batch = next(batches), []
            for place, body in enumerate(islice(bodies, _EVENTS)):
                request = json.loads(body)
                kind = "click" if self._chores.random.random() < 0.2 else "impression"
                about = {"user_id": request["user_id"], "item_id": request["candidates"]["id"][0]}
                batch.append({"event_id": f"{number}-{place}", "type": kind, **about})
            return json.dumps({"events": batch}).encode()

        def turn(client: ServiceConnection) -> None:
            if is_new := not waiting:
                waiting.append(events())
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._chores.keys.lasting}"}
            reply = client.post("/v1/events", waiting[0], headers)
            self._events[f"status {reply.status}"] += 1
            if reply.status == 202:
                waiting.clear()
                self._events.update(counts := json.loads(reply.body))
                self._chores.wrong.update(["a new event is a duplicate"] if is_new and counts["duplicates"] else [])

        return turn

    def _judge(self, load: BackgroundLoad) -> None:
        run, samples = self.run, load.timeline.samples
        is_short = run.plan.day_s < 4 * _WARM_UP_S
        quarters = [_quarter(samples, number) for number in range(4)]
        run.figures |= {
            f"p{percent}, ms, by quarter": _listed(percentile_ms(part, percent) or 0.0 for part in quarters)
            for percent in (50, 99)
        }
        run.figures |= {"requests": len(samples), "scored": count(samples, *SCORED)}
        run.figures |= {f"{name}s": number for name, number in self._chores.done.items()}
        run.figures |= {f"events, {name}": number for name, number in sorted(self._events.items())}
        usual = {
            name: [statistics.median(value for _, value in _quarter(points, number)) for number in range(4)]
            for name, points in self.run.timeline.levels.items()
        }
        run.figures |= {f"{name}, by quarter": _listed(of) for name, of in usual.items()}
        run.usual_checks(samples)
        run.check(
            f"invalid requests are refused, chores done, events new {dict(self._chores.wrong) or ''}",
            not self._chores.wrong,
        )
        run.check(
            "every batch of events is accepted in the end",
            self._events["status 202"] > 0 and not self._events["status 422"],
        )
        for name, most in (("memory, MB", _MORE_MEMORY), ("CPU, % of a core", _MORE_CPU)):
            is_flat = usual[name][3] <= (1 + most) * usual[name][1]
            run.check(f"{name}: at most {most:.0%} more in the last quarter than in the second", is_flat, is_short)
        run.check("no more files are open", usual["open files"][3] <= usual["open files"][1] + _MORE_FILES)
        run.check("no more threads run", usual["threads"][3] <= usual["threads"][1], is_short)


def _quarter(values: Sequence[_T], number: int) -> Sequence[_T]:
    """Return the numbered quarter of some values, at least one of them."""
    start = number * len(values) // 4
    return values[start : max(start + 1, (number + 1) * len(values) // 4)]


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _shares(samples: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    """Return percentages of degraded and of refused or late requests, by minute."""
    due = sorted(samples, key=lambda one: one.due_s)
    minutes = {number: list(some) for number, some in itertools.groupby(due, lambda one: int(one.due_s // 60))}
    kinds: Mapping[str, tuple[Kind, ...]] = {"degraded, %": DEGRADED, "refused or late, %": ("busy", "late")}
    return {
        name: [(60.0 * number, 100 * count(some, *of) / len(some)) for number, some in minutes.items()]
        for name, of in kinds.items()
    }


def _check_replies(run: Run, load: BackgroundLoad, log: Path, dropped: Sequence[tuple[float, float]]) -> None:
    """Compare every reply with its record in the log: the same version and the same scores, to the bit. `dropped`: when
    the counter of dropped records was read, and what it said: attacks fill the log's memory on a busy machine."""
    replies: dict[str, Mapping[str, Any]] = {}
    missing: dict[str, float] = {}
    for seen, sample in zip(load.seen, load.timeline.samples, strict=True):
        if seen.status == 200:
            document = json.loads(seen.body)
            own = {reply["request_id"]: reply for reply in document.get("imp", {"": document}).values()}
            replies |= own
            missing |= dict.fromkeys(own, sample.over_s)
    wrong = 0
    for frame in read_requests([log], ("heads", "model_version")):
        columns = ("request_id", "model_version", "item_ids", "heads", "scores")
        for request_id, version, items, heads, scores in frame.select(columns).iter_rows():
            if (reply := replies.get(request_id)) is None:
                continue  # of a chore
            logged = dict(zip(items, scores[heads.index("pctr")], strict=True))
            ids, pctr = reply["candidates"]["id"], np.asarray(reply["candidates"]["pctr"], np.float32).tolist()
            wrong += not (pctr == [logged[item] for item in ids] and reply["model_version"] == version)
            missing.pop(request_id, None)
    run.figures |= {"replies": len(replies), "replies_not_in_log": len(missing), "replies_unlike_log": wrong}
    run.figures["dropped"] = int(dropped[-1][1])
    lost = unexplained(missing.values(), dropped)
    run.check(f"every reply is in the log, or was counted as dropped when it was sent: {lost} are not", not lost)
    run.check("every reply has the version and the scores of its record", wrong == 0 and len(missing) < len(replies))


def unexplained(missing: Iterable[float], dropped: Sequence[tuple[float, float]]) -> int:
    """Return how many of the replies that are `missing` in the log, by when they came, are more than were counted as
    dropped until the reading after the next one: a reply comes before its record is dropped."""
    times, counts = (np.array(column) for column in zip((0.0, 0.0), *dropped, strict=True))
    came = np.bincount(np.searchsorted(times[1:], list(missing)), minlength=len(dropped) + 1)
    lost = owed = 0
    for here, counted in zip(came, [*np.diff(counts), 0], strict=True):
        late = min(owed, counted)
        lost += owed - late
        owed = max(0, here - (counted - late))
    return int(lost + owed)
