"""A day of life: mixed traffic for as long as is asked, while all that may change or break takes turns.

Afterwards each reply is compared with the request log, and the log is scored again.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import numpy as np

from lab.bench.redis import RedisProcess
from lab.chaos.attack import ATTACKS
from lab.chaos.bad_requests import sent
from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.bundles import good_bundle, mapped_bundle
from lab.chaos.clock import ShiftedClock
from lab.chaos.hostile import hostile_requests
from lab.chaos.load import BackgroundLoad, asking
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import DEGRADED, SCORED, Kind, Sample, count, percentile_ms
from loadtest.generator import Seen, Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import Running, msd_output
from loadtest.requests import OPENRTB, SCORE, as_bid_request, http_request
from loadtest.traffic import Traffic
from msd.contract.bundle import open_bundle
from msd.contract.correction import LearnedCorrection, write_corrections
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.feedback.files import read_requests

_SIZES = {1: 3.0, 5: 5.0, 20: 2.0, 100: 0.2}
_COLD = 0.02
_FORMS: tuple[dict[str, Any], ...] = ({}, {"top_k": 3}, {"explore": {"policy": "thompson"}}, {}, {"explain": True}, {})
"""Parts of every so-manieth request."""
_DEADLINE_MS = 5_000
_EVENTS, _EVENTS_S = 20, 1.0
_DOWN_S, _ATTACK_S = 3.0, 3.0
_HOSTILE = 40
_SHIFTS_S = (3_600.0, -3_600.0, 86_400.0, 0.0)
_CLOCK_S = 60.0
_ATTACKERS = {"silent": 50, "bodies": 8, "chunks": 1, "long": 1, "unknown": 1}
_T = TypeVar("_T")
_MORE_FILES = 16
"""Connections that are just opened or closed."""
# Of medians, between the second quarter, when what is bounded is full, and the last.
_MORE_MEMORY, _MORE_CPU = 0.1, 0.25
_WARM_UP_S = 150.0
# Bounds that a service reaches within days; here they are reached within minutes.
_BOUNDS = {"MAX_REMEMBERED": 10_000}
_CACHE_MB = 8


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
            today = Day(run, service, redis, keys, clock, first, second)
            load = today.spend()
            with ServiceConnection(service.url) as client:
                dropped = client.metric('msd_log_records_total{result="dropped"}')
            service.terminate()
            status = service.wait_for_end()
    run.check(f"the service ends in order: {status}", status == 0)
    run.timeline = load.timeline
    run.hear("comparing replies with the log")
    _check_replies(run, load.seen, log, int(dropped))
    run.hear("scoring the log again")
    options = [part for bundle in (first, second) for part in ("--bundle", str(bundle))]
    replayed = json.loads(msd_output("replay", str(log), *options, "--json"))
    run.figures |= {f"replay_{name}": replayed[name] for name in ("requests", "exact", "mismatches", "max_abs_diff")}
    run.check("every logged score is reproduced to the bit", replayed["mismatches"] == 0)
    run.check("all were compared to the bit", replayed["exact"] == replayed["requests"] > 0 and not replayed["skipped"])


class Keys:
    """A file of two keys: one lasts, the other is replaced."""

    def __init__(self, path: Path) -> None:
        self.path, self.lasting = path, secrets.token_urlsafe()
        self.current = ""
        self.replace()

    def replace(self) -> str:
        """Replace a key, and return the old one."""
        old, self.current = self.current, secrets.token_urlsafe()
        entries = [
            {"name": name, "scopes": ["score", "events"], "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for name, key in (("lasting", self.lasting), ("current", self.current))
        ]
        write_text_atomic(self.path, json.dumps({"keys": entries}))
        return old


@dataclass
class Day:
    """The service, what it depends on, and what is done to them."""

    run: Run
    service: Running
    redis: RedisProcess
    keys: Keys
    clock: ShiftedClock
    first: Path
    second: Path
    done: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """What must not happen: invalid requests that are not refused, chores that fail, new events that are duplicates."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.run.seed)
        self._cpu: tuple[float, float] | None = None

    def spend(self) -> BackgroundLoad:
        """Load the service, do all chores by turns, and add figures and checks."""
        run, plan = self.run, self.run.plan
        with (
            BackgroundLoad(self._target(), plan.day_rate, plan.day_s) as load,
            asking(self.service.url, _EVENTS_S, self._send_events(), lambda error: self.events.update(["unreachable"])),
        ):
            for turn in itertools.count():
                chore = list(CHORES)[turn % len(CHORES)]
                if load.now_s > plan.day_s and turn >= len(CHORES):
                    break
                run.hear(chore, round(load.now_s), round(plan.day_s))
                try:
                    CHORES[chore](self)
                except MsdError as error:
                    self.wrong[f"{chore}: {error}"] += 1
                load.mark(chore)
                self.done[chore] += 1
                time.sleep(plan.chore_s)
                self._measure(load.now_s)
        load.timeline.levels = run.timeline.levels | _shares(load.timeline.samples)
        self._judge(load)
        return load

    def _measure(self, now_s: float) -> None:
        """Add what the service uses to the timeline: CPU since the previous time."""
        levels = self.run.timeline.levels
        self.run.usage(self.service.pid, now_s)
        stat = Path(f"/proc/{self.service.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = now_s, sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")
        if self._cpu is not None:
            used = 100 * (cpu[1] - self._cpu[1]) / (cpu[0] - self._cpu[0])
            levels.setdefault("CPU, % of a core", []).append((round(now_s, 1), round(used, 1)))
        self._cpu = cpu
        levels.setdefault("load of the machine", []).append((round(now_s, 1), os.getloadavg()[0]))

    def _target(self) -> Target:
        """Return requests of all forms."""
        plan, mapping = self.run.plan, open_bundle(self.first).manifest.openrtb
        assert mapping is not None, "the bundle maps BidRequests"
        some = max(1, round(1.2 * plan.day_rate * plan.day_s))
        known, cold = (Traffic(self.first, _SIZES, self.run.seed, share).bodies() for share in (0.0, _COLD))
        requests = []
        for number in range(some):
            if number % 10 == 0:
                requests.append(self._request(OPENRTB, as_bid_request(next(known), mapping)))
                continue
            document = json.loads(next(cold)) | _FORMS[number % len(_FORMS)]
            if number % 3:
                del document["at"]
            requests.append(self._request(SCORE, json.dumps(document).encode()))
        return Target(self.service.url, requests)

    def _request(self, path: str, body: bytes) -> bytes:
        return http_request(path, body, Authorization=f"Bearer {self.keys.lasting}")

    def _send_events(self) -> Callable[[ServiceConnection], None]:
        """Return what sends a batch of events: the last one again, if that was not accepted."""
        bodies, batches = Traffic(self.first, 1, seed=self.run.seed + 1).bodies(), itertools.count()
        waiting: list[bytes] = []

        def events() -> bytes:
            number, batch = next(batches), []
            for place, body in enumerate(islice(bodies, _EVENTS)):
                request = json.loads(body)
                kind = "click" if self._random.random() < 0.2 else "impression"
                about = {"user_id": request["user_id"], "item_id": request["candidates"]["id"][0]}
                batch.append({"event_id": f"{number}-{place}", "type": kind, **about})
            return json.dumps({"events": batch}).encode()

        def turn(client: ServiceConnection) -> None:
            if is_new := not waiting:
                waiting.append(events())
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.keys.lasting}"}
            reply = client.post("/v1/events", waiting[0], headers)
            self.events[f"status {reply.status}"] += 1
            if reply.status == 202:
                waiting.clear()
                self.events.update(counts := json.loads(reply.body))
                self.wrong.update(["a new event is a duplicate"] if is_new and counts["duplicates"] else [])

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
        run.figures |= {f"{name}s": number for name, number in self.done.items()}
        run.figures |= {f"events, {name}": number for name, number in sorted(self.events.items())}
        usual = {
            name: [statistics.median(value for _, value in _quarter(points, number)) for number in range(4)]
            for name, points in self.run.timeline.levels.items()
        }
        run.figures |= {f"{name}, by quarter": _listed(of) for name, of in usual.items()}
        run.usual_checks(samples)
        run.check(f"invalid requests are refused, chores done, events new {dict(self.wrong) or ''}", not self.wrong)
        run.check(
            "every batch of events is accepted in the end",
            self.events["status 202"] > 0 and not self.events["status 422"],
        )
        for name, most in (("memory, MB", _MORE_MEMORY), ("CPU, % of a core", _MORE_CPU)):
            is_flat = usual[name][3] <= (1 + most) * usual[name][1]
            run.check(f"{name}: at most {most:.0%} more in the last quarter than in the second", is_flat, is_short)
        run.check("no more files are open", usual["open files"][3] <= usual["open files"][1] + _MORE_FILES)
        run.check("no more threads run", usual["threads"][3] <= usual["threads"][1], is_short)

    # Chores

    def swap(self) -> None:
        """Serve the other bundle."""
        bundle_id = msd_output("rollback", "--redis", self.redis.url).split()[-1]
        name = next(one.name for one in (self.first, self.second) if open_bundle(one).bundle_id == bundle_id)
        self._until_scored(f"bundle {name} is served", lambda reply: reply.get("model_version") == name)

    def delta(self) -> None:
        """Replace all rows of a bundle by bare ones, or back."""
        bare, turn = self.run.folder / "bare", self.done["delta"] % 2
        if not bare.exists():
            bare_bundle(self.first, bare, open_bundle(self.first).manifest.created_at)
            for name, (old, new) in enumerate(((self.first, bare), (bare, self.first))):
                msd_output("delta", str(old), str(new), str(self.run.folder / f"delta-{name}"))
        msd_output("publish", str(self.run.folder / f"delta-{turn}"), "--delta", "--redis", self.redis.url)

    def restart_redis(self) -> None:
        """Kill Redis, and start it again."""
        self.redis.kill()
        time.sleep(min(_DOWN_S, self.run.plan.chore_s))
        self.redis.start()

    def correct(self) -> None:
        """Publish other corrections."""
        made = {
            open_bundle(bundle).bundle_id: LearnedCorrection(
                centre=-2.0,
                shift=self._random.uniform(-1, 1),
                slope=self._random.uniform(0.6, 1.8),
                at=1.0,
                impressions=1_000,
                clicks=100,
            )
            for bundle in (self.first, self.second)
        }
        write_corrections(self.run.folder / "corrections.json", made)

    def rotate_keys(self) -> None:
        """Replace a key: the new one is accepted, then the old one is not."""
        old = self.keys.replace()
        self._until_scored("the new key is accepted", lambda reply: "candidates" in reply, self.keys.current)
        self._until_scored("the old key is refused", lambda reply: reply.get("code") == "unauthorized", old)

    def step_clock(self) -> None:
        """Move the service's clock: it follows, and a request with `at` has the same scores."""
        shift_s = _SHIFTS_S[self.done["clock step"] % len(_SHIFTS_S)]
        body = next(Traffic(self.first, 5).bodies())

        def shifted_s() -> float:
            with urlopen(f"{self.service.url}/health/live") as reply:
                return parsedate_to_datetime(reply.headers["date"]).timestamp() - time.time()

        with self._client() as ask:

            def scores(seconds: float) -> object:
                self.clock.jump(seconds)
                reply = ask(body)
                return reply.get("candidates"), reply.get("degraded")

            # Events change counts meanwhile.
            wait_until("scores do not change with the clock", lambda: scores(0.0) == scores(shift_s))
        wait_until("the clock follows", lambda: abs(shifted_s() - shift_s) < _CLOCK_S)

    def attack(self) -> None:
        """Slow clients, and ones that use up connections and memory."""
        name = list(_ATTACKERS)[self.done["attack"] % len(_ATTACKERS)]
        assert name in ATTACKS
        host, port = Target(self.service.url, ()).place
        seconds = str(min(_ATTACK_S, self.run.plan.chore_s))
        command = [sys.executable, "-m", "lab.chaos.attack", name, str(_ATTACKERS[name]), host, str(port), seconds]
        subprocess.run(
            [*command, self.keys.lasting], input=next(Traffic(self.first, 5).bodies()), capture_output=True, check=True
        )

    def misuse(self) -> None:
        """Requests that no service may accept."""
        good = json.loads(next(Traffic(self.first, 5).bodies()))
        header = f"\r\nAuthorization: Bearer {self.keys.lasting}\r\n".encode()
        some = islice(hostile_requests(good, self.done["misuse"]), _HOSTILE)
        signed = (one._replace(request=one.request.replace(b"\r\n", header, 1)) for one in some)
        outcomes = asyncio.run(sent(Target(self.service.url, ()).place, signed))
        self.wrong.update(f"{hostile.what}: {outcome}" for hostile, outcome in outcomes if outcome[0] in "25h")

    def _until_scored(self, what: str, holds: Callable[[dict[str, Any]], bool], key: str | None = None) -> None:
        body = next(Traffic(self.first, 1).bodies())
        with self._client(key) as ask:
            wait_until(what, lambda: holds(ask(body)))

    @contextmanager
    def _client(self, key: str | None = None) -> Iterator[Callable[[bytes], dict[str, Any]]]:
        """Yield what scores a request by a key, and returns the reply or the error."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.keys.lasting}"}
        with ServiceConnection(self.service.url) as client:
            yield lambda body: _opened(client.post(SCORE, body, headers).body)


CHORES: Mapping[str, Callable[[Day], None]] = {
    "swap": Day.swap,
    "delta": Day.delta,
    "misuse": Day.misuse,
    "Redis restart": Day.restart_redis,
    "correction": Day.correct,
    "key rotation": Day.rotate_keys,
    "clock step": Day.step_clock,
    "attack": Day.attack,
}
"""What takes turns, by name."""


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


def _opened(body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body)
    return document.get("error", document) if isinstance(document.get("error"), dict) else document


def _check_replies(run: Run, seen: list[Seen], log: Path, dropped: int) -> None:
    """Compare every reply with its record in the log: the same version and the same scores, to the bit. `dropped`:
    records that the service counted as such, as it does while attacks fill the log's memory on a busy machine."""
    replies: dict[str, Mapping[str, Any]] = {}
    for one in seen:
        if one.status == 200:
            document = json.loads(one.body)
            replies |= {reply["request_id"]: reply for reply in document.get("imp", {"": document}).values()}
    found = wrong = 0
    for frame in read_requests([log], ("heads", "model_version")):
        columns = ("request_id", "model_version", "item_ids", "heads", "scores")
        for request_id, version, items, heads, scores in frame.select(columns).iter_rows():
            if (reply := replies.get(request_id)) is None:
                continue  # of a chore
            logged = dict(zip(items, scores[heads.index("pctr")], strict=True))
            ids, pctr = reply["candidates"]["id"], np.asarray(reply["candidates"]["pctr"], np.float32).tolist()
            is_same = pctr == [logged[item] for item in ids] and reply["model_version"] == version
            found, wrong = found + 1, wrong + (not is_same)
    run.figures |= {"replies": len(replies), "replies_in_log": found, "replies_unlike_log": wrong, "dropped": dropped}
    run.check("every reply is in the log, or counted as dropped", len(replies) - found <= dropped)
    run.check("every reply has the version and the scores of its record", wrong == 0 and found > 0)
