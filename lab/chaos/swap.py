"""A new bundle every few seconds under load, bad ones among them: no request fails."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lab.chaos.bundles import bad_bundles, good_bundle, point_to
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.scenario import Check, Figure, Scenario, ScenarioResult, Unable, usual_checks
from lab.chaos.timeline import SCORED, ScenarioTimeline, count, kind_of, percentile_ms
from loadtest.generator import Seen, Target
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from loadtest.processes import Running
from msd.contract.bundle import MARKER

_MORE = 1.5
_RATIO = 2.0
_LONGEST_S = 600.0


class _Setting(NamedTuple):
    """Share of the capacity, and whether beside a busy neighbour; `prefix` of the figures' names."""

    prefix: str
    share: float
    is_beside_another: bool
    swaps: int

    @property
    def told(self) -> str:
        """Return a description."""
        return f"at {self.share:.0%} of capacity{', beside a busy neighbour' if self.is_beside_another else ''}"


Span = tuple[float, float]
"""A time span, in seconds of the load."""


class _Swaps(NamedTuple):
    """Actions under load and their times: swaps, rests, refused bad bundles."""

    load: BackgroundLoad
    rate: float
    swaps: Sequence[Span]
    rests: Sequence[Span]
    refused: int
    offered: int


class Swap(Scenario):
    """Runs at half and at three quarters of the capacity, alone and beside a process that keeps a core busy, which
    lowers the capacity."""

    name = "swap"
    title = "Bundles follow one another, bad ones among them"
    told = ("swap_failed", "swap_p99_ratio", "bad_bundles_refused", "bad_bundles_offered")

    def run(self) -> ScenarioResult:
        if self.environment.other is None:
            raise Unable("it takes two bundles of the same users and items: name another one by --other")
        self.hear("making bundles")
        self._make(self.environment.bundle, self.environment.other)
        # One graph may be twice as fast as the other: half of its capacity may be all of the other's.
        able = self._measure()
        figures: dict[str, Figure] = {}
        checks: list[Check] = []
        timeline = ScenarioTimeline()
        point_to(self.bundles, self.good[0].name)
        with self.environment.service(self.name, bundle=self.bundles) as service:
            for setting in self._settings():
                with _neighbour(setting.is_beside_another):
                    swaps = self._swapped(service, setting, setting.share * able[setting.is_beside_another])
                found = self._found(swaps, setting)
                figures |= found.figures
                checks += found.checks
                timeline = timeline.then(swaps.load.timeline, timeline.end_s)
        shutil.rmtree(self.bundles)
        return ScenarioResult(figures, tuple(checks), timeline)

    def _settings(self) -> list[_Setting]:
        half, more = self.plan.share, _MORE * self.plan.share
        return [
            _Setting("swap", half, False, self.plan.swaps),
            _Setting("swap_more", more, False, self.plan.swaps_more),
            _Setting("swap_beside", half, True, self.plan.swaps_more),
            _Setting("swap_more_beside", more, True, self.plan.swaps_more),
        ]

    def _make(self, bundle: Path, other: Path) -> None:
        """Make good bundles of two graphs in turn, and bad ones; `versions` maps a version to its graph's bundle."""
        self.bundles = self.folder / "bundles"
        self.versions = {f"b{number}": (bundle, other)[number % 2] for number in range(self.plan.swaps + 1)}
        self.good = [good_bundle(source, self.bundles / name, name) for name, source in self.versions.items()]
        self.bad = bad_bundles(bundle, other, self.bundles)[: self.plan.swaps]

    def _target(self, service: Running) -> Target:
        """Return the same requests for any bundle."""
        return self.environment.target(service.url, bundle=self.environment.bundle)

    def _measure(self) -> dict[bool, float]:
        """Return the requests per second of the slower graph, by whether a busy neighbour runs; and set `scores`, those
        of a service with one bundle, by request."""
        able = {False: math.inf, True: math.inf}
        self.scores: dict[Path, Mapping[bytes, list[float]]] = {}
        for source in {*self.versions.values()}:
            with self.environment.service(self.name, bundle=source) as service:
                target = self._target(service)
                with ServiceConnection(service.url) as client:
                    asked = zip(target.requests, target.bodies, strict=True)
                    self.scores[source] = {one: client.scores(body) for one, body in asked}
                for is_beside, before in able.items():
                    with _neighbour(is_beside):
                        able[is_beside] = min(before, capacity(target, self.plan.capacity_s))
        return able

    def _swapped(self, service: Running, setting: _Setting, rate: float) -> _Swaps:
        """Swap all bundles under load at this rate."""
        plan = self.plan
        good, bad = self.good[: setting.swaps + 1], self.bad if setting.swaps == plan.swaps else []
        swaps: list[Span] = []
        refused = 0
        with ServiceConnection(service.url) as client:
            for folder in good[1:]:  # the new bundle has never been verified
                (folder / MARKER).unlink(missing_ok=True)
            with BackgroundLoad(self._target(service), rate, _LONGEST_S) as load:

                def rest() -> Span:
                    start = load.now_s
                    load.until(start + plan.steady_s)
                    return start, load.now_s

                load.mark(setting.told)
                rests = [rest()]
                for place, one in enumerate(good[1:]):
                    self.hear(f"{setting.told}: bundles", place, len(good) - 1)
                    started = load.now_s
                    if _turned(client, self.bundles, one.name, "done"):
                        swaps.append((started, load.mark(one.name)))
                    if not place:  # the other graph, too
                        rests.append(rest())
                    if place < len(bad):
                        was_refused = _turned(client, self.bundles, bad[place].name, "refused")
                        refused += was_refused
                        load.mark(f"{'refused' if was_refused else 'not refused'}: {bad[place].name}")
                    load.until(started + plan.swap_every_s)
                load.stop()
            _turned(client, self.bundles, good[0].name, "done")  # for the next setting
        return _Swaps(load, rate, swaps, rests, refused, min(len(bad), len(good) - 1))

    def _found(self, run: _Swaps, setting: _Setting) -> ScenarioResult:
        load, swaps = run.load, run.swaps
        samples = load.timeline.samples
        swapping = [sample for start, end in swaps for sample in load.timeline.between(start, end)]
        resting = [sample for start, end in run.rests for sample in load.timeline.between(start, end)]
        steady, during = percentile_ms(resting, 99), percentile_ms(swapping, 99)
        # Degraded replies have other scores in any version.
        whole = [seen for seen in load.seen if kind_of(seen) == "full"]
        mixed = sum(not self._is_of_one(seen) for seen in whole)
        ratio = round(during / steady, 3) if during and steady else None
        versions = {json.loads(seen.body)["model_version"] for seen in load.seen if seen.status == 200}
        counted: dict[str, Figure] = {
            "failed": len(samples) - count(samples, *SCORED),
            "p99_ratio": ratio,
            "requests": len(samples),
            "requests_per_s": round(run.rate, 1),
            "done": len(swaps),
            "seconds": round(max((end - start for start, end in swaps), default=0.0), 3),
            "p99_ms": during,
            "steady_p99_ms": steady,
            "replies_of_two_models": mixed,
            "versions": len(versions),
        }
        figures = {f"{setting.prefix}_{name}": value for name, value in counted.items()}
        checks = [
            *usual_checks(samples),
            Check("every good bundle is served in turn", len(swaps) == setting.swaps),
            Check("every reply has the scores of its version", mixed == 0),
            # Near its deadline a reply may be partial: a matter of time.
            Check("no reply is degraded", count(samples, "full") == count(samples, *SCORED), True),
            Check(f"p99 during swaps is at most {_RATIO:g} × what it is else", bool(ratio and ratio <= _RATIO), True),
        ]
        if run.offered:
            figures |= {"bad_bundles_refused": run.refused, "bad_bundles_offered": run.offered}
            checks.append(Check("every bad bundle is refused", run.refused == run.offered))
        told = tuple(check._replace(what=f"{setting.told}: {check.what}") for check in checks)
        return ScenarioResult(figures, told, load.timeline)

    def _is_of_one(self, seen: Seen) -> bool:
        reply = json.loads(seen.body)
        source = self.versions.get(reply["model_version"])
        return source is not None and reply["candidates"]["pctr"] == self.scores[source][seen.request]


@contextmanager
def _neighbour(is_there: bool) -> Iterator[None]:
    """Run a process of the same priority that keeps a core busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_there else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def _turned(client: ServiceConnection, folder: Path, name: str, result: str) -> bool:
    """Move the pointer, and return whether the service has followed or refused it."""
    sample = f'msd_swaps_total{{result="{result}"}}'
    before = client.metric(sample)
    point_to(folder, name)
    try:
        return wait_until(f"the bundle {name} is {result}", lambda: client.metric(sample) > before)
    except ClientError:
        return False
