"""One bundle follows another every few seconds under load, bad ones among them: nobody notices, but for the scores."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from loadtest.chaos.bundles import bad_bundles, good_bundle, point_to
from loadtest.chaos.ground import Ground, metric
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, Unable, usual_checks
from loadtest.chaos.timeline import SCORED, count, kind_of, percentile_ms
from loadtest.generator import Seen, Target
from loadtest.http_client import Client, ClientError

_NAME = "swap"
_RATIO = 2.0
_PATIENCE_S = 60.0
_PAUSE_S = 0.1
_LONGEST_S = 600.0


class _Known(NamedTuple):
    """A bundle alone: its scores by request, and how many requests a second a service of it scores."""

    scores: Mapping[bytes, list[float]]
    capacity: float


class _Bundles(NamedTuple):
    """Good ones in turn, of two graphs, and bad ones; `versions` says which graph a version's is."""

    folder: Path
    good: Sequence[Path]
    bad: Sequence[Path]
    versions: Mapping[str, Path]


Span = tuple[float, float]
"""From when to when, in seconds of the load."""


class _Course(NamedTuple):
    """What was done under load, and when: swaps that were done, rests in which nothing was, bad bundles refused."""

    load: Load
    rate: float
    swaps: Sequence[Span]
    rests: Sequence[Span]
    refused: int


def _run(ground: Ground) -> Found:
    if ground.other is None:
        raise Unable("it takes two bundles of the same users and items: name another one by --other")
    ground.heard(f"{_NAME}: making bundles", 0, 1)
    bundles = _made(ground, ground.other)
    known = {source: _known(ground, source) for source in {*bundles.versions.values()}}
    course = _gone(ground, bundles, known)
    shutil.rmtree(bundles.folder)
    return _found(bundles, known, course)


def _gone(ground: Ground, bundles: _Bundles, known: Mapping[Path, _Known]) -> _Course:
    """All bundles in their turn, under load."""
    plan = ground.plan
    swaps: list[Span] = []
    refused = 0
    with ground.service(_NAME, bundle=bundles.folder) as service, Client(service.url) as client:
        target = ground.target(service.url, bundle=ground.bundle)
        # One graph may be twice as fast as the other: half of what that one can do would be all that the other can.
        rate = plan.share * min(one.capacity for one in known.values())
        with Load(target, rate, _LONGEST_S) as load:
            rests = [_rest(load, plan.steady_s)]
            for place, good in enumerate(bundles.good[1:]):
                ground.heard(f"{_NAME}: bundles", place, len(bundles.good) - 1)
                started = load.now_s
                if _turned(client, bundles.folder, good.name, "done"):
                    swaps.append((started, load.mark(good.name)))
                if not place:  # the other graph, too
                    rests.append(_rest(load, plan.steady_s))
                if place < len(bundles.bad):
                    bad = bundles.bad[place]
                    was_refused = _turned(client, bundles.folder, bad.name, "refused")
                    refused += was_refused
                    load.mark(f"{'refused' if was_refused else 'not refused'}: {bad.name}")
                load.until(started + plan.swap_every_s)
            load.stop()
    return _Course(load, rate, swaps, rests, refused)


def _found(bundles: _Bundles, known: Mapping[Path, _Known], course: _Course) -> Found:
    load, swaps, refused = course.load, course.swaps, course.refused
    samples = load.timeline.samples
    swapping = [sample for start, end in swaps for sample in load.timeline.between(start, end)]
    resting = [sample for start, end in course.rests for sample in load.timeline.between(start, end)]
    steady, during = percentile_ms(resting, 99), percentile_ms(swapping, 99)
    failed = len(samples) - count(samples, *SCORED)
    # What is declared to be scored from less has other scores, of whichever version.
    whole = [seen for seen in load.seen if kind_of(seen) == "full"]
    mixed = sum(not _is_of_one(seen, known, bundles.versions) for seen in whole)
    ratio = round(during / steady, 3) if during and steady else None
    wanted, offered = len(bundles.good) - 1, min(len(bundles.bad), len(bundles.good) - 1)
    return Found(
        {
            "swap_failed": failed,
            "swap_p99_ratio": ratio,
            "bad_bundles_refused": refused,
            "bad_bundles_offered": offered,
            "swaps": len(swaps),
            "swap_requests_per_s": round(course.rate, 1),
            "swap_seconds": round(max((end - start for start, end in swaps), default=0.0), 3),
            "swap_p99_ms": during,
            "swap_steady_p99_ms": steady,
            "swap_replies_of_two_models": mixed,
            "swap_versions": len({_version(seen) for seen in load.seen if seen.status == 200}),
        },
        (
            *usual_checks(samples),
            Check("every good bundle is served in its turn", len(swaps) == wanted),
            Check("every bad bundle is refused", refused == offered),
            Check("every reply has the scores of the version that it names", mixed == 0),
            # Near its deadline one may be in part: a matter of time.
            Check("no reply is degraded", count(samples, "full") == count(samples, *SCORED), True),
            Check(f"p99 during swaps is at most {_RATIO:g} × what it is else", bool(ratio and ratio <= _RATIO), True),
        ),
        load.timeline,
    )


def _made(ground: Ground, other: Path) -> _Bundles:
    folder = ground.work / _NAME / "bundles"
    sources = [(ground.bundle, other)[number % 2] for number in range(ground.plan.swaps + 1)]
    good = [good_bundle(source, folder / f"b{number}", f"b{number}") for number, source in enumerate(sources)]
    bad = bad_bundles(ground.bundle, other, folder)[: ground.plan.swaps]
    point_to(folder, good[0].name)
    return _Bundles(folder, good, bad, {one.name: source for one, source in zip(good, sources, strict=True)})


def _known(ground: Ground, bundle: Path) -> _Known:
    """What a service of this bundle alone gives."""
    with ground.service(_NAME, bundle=bundle) as service, Client(service.url) as client:
        target: Target = ground.target(service.url, bundle=ground.bundle)
        scores = {one: _pctr(client.score(one.partition(b"\r\n\r\n")[2]).body) for one in target.requests}
        return _Known(scores, capacity(target, ground.plan.capacity_s))


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


def _is_of_one(seen: Seen, known: Mapping[Path, _Known], versions: Mapping[str, Path]) -> bool:
    source = versions.get(_version(seen))
    return source is not None and _pctr(seen.body) == known[source].scores[seen.request]


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
