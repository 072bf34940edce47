"""One bundle follows another every few seconds under load, bad ones among them: nobody notices, but for the scores.

At half and at three quarters of what the service can score, alone and beside a process that wants a core for itself.
What it can score is found for both: beside a busy neighbour that is less.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from loadtest.chaos.bundles import bad_bundles, good_bundle, point_to
from loadtest.chaos.environment import Environment, metric
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Figure, Found, Scenario, Unable, usual_checks
from loadtest.chaos.timeline import SCORED, Timeline, count, kind_of, percentile_ms
from loadtest.generator import Seen
from loadtest.http_client import Client, ClientError
from msd.contract.bundle import MARKER

_NAME = "swap"
_MORE = 1.5
_RATIO = 2.0
_PATIENCE_S = 60.0
_PAUSE_S = 0.1
_LONGEST_S = 600.0


class _Setting(NamedTuple):
    """At which share of what can be scored, and beside what; `prefix` begins the names of its figures."""

    prefix: str
    share: float
    is_beside_another: bool
    swaps: int

    @property
    def told(self) -> str:
        """For people."""
        return f"at {self.share:.0%} of capacity{', beside a busy neighbour' if self.is_beside_another else ''}"


class _Bundles(NamedTuple):
    """Good ones in turn, of two graphs, and bad ones; `versions` says which graph a version's is."""

    folder: Path
    good: Sequence[Path]
    bad: Sequence[Path]
    versions: Mapping[str, Path]


Scores = Mapping[Path, Mapping[bytes, list[float]]]
"""What a service of one bundle alone gives, by request."""
Span = tuple[float, float]
"""From when to when, in seconds of the load."""


class _Swaps(NamedTuple):
    """What was done under load, and when: swaps that were done, rests in which nothing was, bad bundles refused."""

    load: Load
    rate: float
    swaps: Sequence[Span]
    rests: Sequence[Span]
    refused: int
    offered: int


def _run(environment: Environment) -> Found:
    if environment.other is None:
        raise Unable("it takes two bundles of the same users and items: name another one by --other")
    environment.heard(f"{_NAME}: making bundles", 0, 1)
    bundles = _made(environment, environment.other)
    scores = {source: _scores(environment, source) for source in {*bundles.versions.values()}}
    figures: dict[str, Figure] = {}
    checks: list[Check] = []
    timeline = Timeline()
    able: dict[bool, float] = {}
    for setting in _settings(environment):
        with _neighbour(setting.is_beside_another):
            if setting.is_beside_another not in able:
                # One graph may be twice as fast as the other, so that half of its requests would be all of the other's.
                able[setting.is_beside_another] = min(_capacity(environment, source) for source in scores)
            run = _gone(environment, bundles, setting, setting.share * able[setting.is_beside_another])
        found = _found(bundles, scores, run, setting)
        figures |= found.figures
        checks += found.checks
        timeline = timeline.then(run.load.timeline, timeline.end_s)
    shutil.rmtree(bundles.folder)
    return Found(figures, tuple(checks), timeline)


def _settings(environment: Environment) -> list[_Setting]:
    plan = environment.plan
    half, more = plan.share, _MORE * plan.share
    return [
        _Setting("swap", half, False, plan.swaps),
        _Setting("swap_more", more, False, plan.swaps_more),
        _Setting("swap_beside", half, True, plan.swaps_more),
        _Setting("swap_more_beside", more, True, plan.swaps_more),
    ]


@contextmanager
def _neighbour(is_there: bool) -> Iterator[None]:
    """Another process, of the same priority, that wants a core for itself."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_there else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def _gone(environment: Environment, bundles: _Bundles, setting: _Setting, rate: float) -> _Swaps:
    """All bundles in their turn, under load of so many requests a second."""
    plan = environment.plan
    good, bad = bundles.good[: setting.swaps + 1], bundles.bad if setting.swaps == plan.swaps else ()
    point_to(bundles.folder, good[0].name)
    for folder in good[1:]:  # what comes has never been verified
        (folder / MARKER).unlink(missing_ok=True)
    swaps: list[Span] = []
    refused = 0
    with environment.service(_NAME, bundle=bundles.folder) as service, Client(service.url) as client:
        target = environment.target(service.url, bundle=environment.bundle)
        with Load(target, rate, _LONGEST_S) as load:
            load.mark(setting.told)
            rests = [_rest(load, plan.steady_s)]
            for place, one in enumerate(good[1:]):
                environment.heard(f"{_NAME} {setting.told}: bundles", place, len(good) - 1)
                started = load.now_s
                if _turned(client, bundles.folder, one.name, "done"):
                    swaps.append((started, load.mark(one.name)))
                if not place:  # the other graph, too
                    rests.append(_rest(load, plan.steady_s))
                if place < len(bad):
                    was_refused = _turned(client, bundles.folder, bad[place].name, "refused")
                    refused += was_refused
                    load.mark(f"{'refused' if was_refused else 'not refused'}: {bad[place].name}")
                load.until(started + plan.swap_every_s)
            load.stop()
    return _Swaps(load, rate, swaps, rests, refused, min(len(bad), len(good) - 1))


def _found(bundles: _Bundles, scores: Scores, run: _Swaps, setting: _Setting) -> Found:
    load, swaps = run.load, run.swaps
    samples = load.timeline.samples
    swapping = [sample for start, end in swaps for sample in load.timeline.between(start, end)]
    resting = [sample for start, end in run.rests for sample in load.timeline.between(start, end)]
    steady, during = percentile_ms(resting, 99), percentile_ms(swapping, 99)
    # What is declared to be scored from less has other scores, of whichever version.
    whole = [seen for seen in load.seen if kind_of(seen) == "full"]
    mixed = sum(not _is_of_one(seen, scores, bundles.versions) for seen in whole)
    ratio = round(during / steady, 3) if during and steady else None
    name = setting.prefix
    figures: dict[str, Figure] = {
        f"{name}_failed": len(samples) - count(samples, *SCORED),
        f"{name}_p99_ratio": ratio,
        f"{name}_requests": len(samples),
        f"{name}_requests_per_s": round(run.rate, 1),
        f"{name}_done": len(swaps),
        f"{name}_seconds": round(max((end - start for start, end in swaps), default=0.0), 3),
        f"{name}_p99_ms": during,
        f"{name}_steady_p99_ms": steady,
        f"{name}_replies_of_two_models": mixed,
        f"{name}_versions": len({_version(seen) for seen in load.seen if seen.status == 200}),
    }
    checks = [
        *usual_checks(samples),
        Check("every good bundle is served in its turn", len(swaps) == setting.swaps),
        Check("every reply has the scores of the version that it names", mixed == 0),
        # Near its deadline one may be in part: a matter of time.
        Check("no reply is degraded", count(samples, "full") == count(samples, *SCORED), True),
        Check(f"p99 during swaps is at most {_RATIO:g} × what it is else", bool(ratio and ratio <= _RATIO), True),
    ]
    if run.offered:
        figures |= {"bad_bundles_refused": run.refused, "bad_bundles_offered": run.offered}
        checks.append(Check("every bad bundle is refused", run.refused == run.offered))
    told = tuple(check._replace(what=f"{setting.told}: {check.what}") for check in checks)
    return Found(figures, told, load.timeline)


def _made(environment: Environment, other: Path) -> _Bundles:
    folder = environment.work / _NAME / "bundles"
    sources = [(environment.bundle, other)[number % 2] for number in range(environment.plan.swaps + 1)]
    good = [good_bundle(source, folder / f"b{number}", f"b{number}") for number, source in enumerate(sources)]
    bad = bad_bundles(environment.bundle, other, folder)[: environment.plan.swaps]
    return _Bundles(folder, good, bad, {one.name: source for one, source in zip(good, sources, strict=True)})


def _scores(environment: Environment, bundle: Path) -> Mapping[bytes, list[float]]:
    with environment.service(_NAME, bundle=bundle) as service, Client(service.url) as client:
        requests = environment.target(service.url, bundle=environment.bundle).requests
        return {one: _pctr(client.score(one.partition(b"\r\n\r\n")[2]).body) for one in requests}


def _capacity(environment: Environment, bundle: Path) -> float:
    """How many requests a second a service of this bundle alone scores."""
    with environment.service(_NAME, bundle=bundle) as service:
        return capacity(environment.target(service.url, bundle=environment.bundle), environment.plan.capacity_s)


def _rest(load: Load, seconds: float) -> Span:
    """When nothing was done for so long."""
    start = load.now_s
    load.until(start + seconds)
    return start, load.now_s


def _turned(client: Client, folder: Path, name: str, result: str) -> bool:
    """Whether the service has done, or refused, what the pointer is moved to."""
    sample = f'msd_swaps_total{{result="{result}"}}'
    before = metric(client, sample)
    point_to(folder, name)
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        try:
            if metric(client, sample) > before:
                return True
        except ClientError:  # its connection was closed: the next is another
            pass
        time.sleep(_PAUSE_S)
    return False


def _is_of_one(seen: Seen, scores: Scores, versions: Mapping[str, Path]) -> bool:
    source = versions.get(_version(seen))
    return source is not None and _pctr(seen.body) == scores[source][seen.request]


def _version(seen: Seen) -> str:
    return str(json.loads(seen.body)["model_version"])


def _pctr(body: bytes) -> list[float]:
    scores: list[float] = json.loads(body)["candidates"]["pctr"]
    return scores


SWAP = Scenario(
    _NAME,
    "Bundles follow one another, bad ones among them",
    ("swap_failed", "swap_p99_ratio", "bad_bundles_refused", "bad_bundles_offered"),
    _run,
)
