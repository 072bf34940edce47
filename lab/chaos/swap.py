"""A new bundle every few seconds under load: no request fails."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lab.chaos.bundles import good_bundle, point_to
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import SCORED, ScenarioTimeline, count, kind_of, percentile_ms
from loadtest.generator import Seen, Target
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from msd.contract.bundle import MARKER

_HIGHER_SHARE = 1.5
_RATIO = 2.0
_LONGEST_S = 600.0
_FP32 = {"asked": "fp32", "chosen": "fp32"}
Scores = Mapping[str, Mapping[bytes, list[float]]]
"""Scores of a service with one bundle, by version and request."""


class _Setting(NamedTuple):
    """Requests per second, beside a busy neighbour or not, and the bundles."""

    name: str
    what: str
    rate: float
    is_beside: bool
    bundles: Sequence[Path]


def swap(run: Run) -> None:
    """Swap at half of the capacity; then at more, beside a process that keeps a core busy."""
    plan = run.plan
    if run.other is None:
        raise Unable("it takes two bundles of the same users and items: name another one by --other")
    run.hear("making bundles")
    bundles = run.folder / "bundles"
    sources = {f"b{number}": (run.bundle, run.other)[number % 2] for number in range(plan.swaps + 1)}
    # Of several precisions each load would choose the fastest at the time, and so other scores.
    good = [good_bundle(source, bundles / name, name, precision=_FP32) for name, source in sources.items()]
    # One graph may be twice as fast as the other: half of its capacity may be all of the other's.
    able, found_by = {False: list[float](), True: list[float]()}, list[Mapping[bytes, list[float]]]()
    for folder in good[:2]:
        with run.service(bundle=folder) as service, ServiceConnection(service.url) as client:
            target = run.target(service)
            asked = zip(target.requests, target.bodies, strict=True)
            found_by.append({request: client.scores(body) for request, body in asked})
            for is_beside, found in able.items():
                with _neighbour(is_beside):
                    found.append(capacity(target, plan.capacity_s))
    scores = {name: found_by[number % 2] for number, name in enumerate(sources)}
    half, more = plan.share * min(able[False]), _HIGHER_SHARE * plan.share * min(able[True])
    point_to(bundles, good[0].name)
    with run.service(bundle=bundles) as service:
        # The same requests for any bundle.
        target = run.target(service)
        for setting in (
            _Setting("swap", f"at {plan.share:.0%} of capacity", half, False, good),
            _Setting("swap_beside", "at more, beside a busy neighbour", more, True, good[: plan.swaps_beside + 1]),
        ):
            with _neighbour(setting.is_beside):
                timeline = _swapped(run, target, setting, bundles, scores)
            run.timeline = run.timeline.then(timeline, run.timeline.end_s)


def _swapped(run: Run, target: Target, setting: _Setting, bundles: Path, scores: Scores) -> ScenarioTimeline:
    """Swap all bundles under load."""
    plan, good = run.plan, setting.bundles
    swaps, rests = list[tuple[float, float]](), list[tuple[float, float]]()
    for folder in good[1:]:  # the new bundle has never been verified
        (folder / MARKER).unlink(missing_ok=True)
    with ServiceConnection(target.url) as client:
        with BackgroundLoad(target, setting.rate, _LONGEST_S) as load:

            def rest() -> None:
                start = load.now_s
                load.until(start + plan.steady_s)
                rests.append((start, load.now_s))

            load.mark(setting.what)
            rest()
            for place, folder in enumerate(good[1:]):
                run.hear(f"{setting.what}: bundles", place, len(good) - 1)
                started = load.now_s
                if _turned(client, bundles, folder.name):
                    swaps.append((started, load.mark(folder.name)))
                if not place:  # the other graph, too
                    rest()
                load.until(started + plan.swap_every_s)
            load.stop()
        _turned(client, bundles, good[0].name)  # for the next setting
    samples = load.timeline.samples
    during, steady = (
        percentile_ms([sample for start, end in spans for sample in load.timeline.between(start, end)], 99)
        for spans in (swaps, rests)
    )
    # Degraded replies have other scores in any version.
    mixed = sum(not _is_of_one(seen, scores) for seen in load.seen if kind_of(seen) == "full")
    ratio = round(during / steady, 3) if during and steady else None
    figures = {
        "failed": len(samples) - count(samples, *SCORED),
        "p99_ratio": ratio,
        "requests": len(samples),
        "requests_per_s": round(setting.rate, 1),
        "done": len(swaps),
        "seconds": round(max((end - start for start, end in swaps), default=0.0), 3),
        "p99_ms": during,
        "steady_p99_ms": steady,
        "replies_of_two_models": mixed,
    }
    run.figures |= {f"{setting.name}_{name}": value for name, value in figures.items()}
    what = f"{setting.what}: "
    run.usual_checks(samples, what)
    run.check(f"{what}every bundle is served in turn", len(swaps) == len(good) - 1)
    run.check(f"{what}every reply has the scores of its version", mixed == 0)
    # Near its deadline a reply may be partial: a matter of time.
    run.check(f"{what}no reply is degraded", count(samples, "full") == count(samples, *SCORED), True)
    run.check(f"{what}p99 during swaps is at most {_RATIO:g} × the other", bool(ratio and ratio <= _RATIO), True)
    return load.timeline


def _is_of_one(seen: Seen, scores: Scores) -> bool:
    reply = json.loads(seen.body)
    version = reply["model_version"]
    return version in scores and reply["candidates"]["pctr"] == scores[version][seen.request]


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


def _turned(client: ServiceConnection, folder: Path, name: str) -> bool:
    """Move the pointer, and return whether the service has followed."""
    sample = 'msd_swaps_total{result="done"}'
    before = client.metric(sample)
    point_to(folder, name)
    try:
        return wait_until(f"the bundle {name} is served", lambda: client.metric(sample) > before)
    except ClientError:
        return False
