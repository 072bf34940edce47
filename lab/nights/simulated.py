"""Many made-up nights, judged by the real gate and the real decisions of a rollout: which promotions were right."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.nights.made_night import KINDS, MadeNight
from lab.nights.world_night import WORLDS, WorldNight
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.feedback.gate import Gate
from msd.feedback.judge import judge
from msd.nightly.config import RolloutConfig
from msd.nightly.stage import checks_of_arms, decided_by, looks_of

GOOD = 0.02
"""From this gain of revenue on a promotion is right, and to keep the old bundle wrong; below 0 it is the reverse."""
JUDGED, A_DAY = 8_000, 200_000
_RESAMPLES = 300


class SimulatedNight(NamedTuple):
    """What was decided in one night: by the gate alone, by the figures of what it does not know, and by the rollout
    after it, which took `hours`. `gain`: the new bundle's share of revenue more, by the law; `cost`: what exploring the
    share of requests costs of it."""

    number: int
    source: str
    kind: str
    share: float
    gain: float
    cost: float
    decision: str
    gate: bool
    figures: bool
    rollout: bool
    hours: float
    why: list[str]


class Nights(NamedTuple):
    """Which nights: how many, their seed, the requests that are judged in each, and the share of these that explores;
    1 % or 10 % if None."""

    total: int
    seed: int = 0
    judged: int = JUDGED
    share: float | None = None


def run_simulated(nights: Nights, hear: Callable[[str], None], kept: Path | None = None) -> dict[str, Any]:
    """Return the nights, of each kind in turn, from the made-up law and from worlds, and their table. `kept`: a file
    with a line a night, which says what is done already. Raises MsdError if its nights are others."""
    head = json.dumps(nights._replace(total=0)._asdict())
    lines = kept.read_text("utf-8").splitlines() if kept and kept.is_file() else [head]
    if lines[0] != head:
        raise MsdError(f"{kept}: holds nights of {lines[0]}, not of {head}; name another file")
    found = [SimulatedNight(**json.loads(line)) for line in lines[1 : nights.total + 1]]
    for number in range(len(found), nights.total):
        hear(f"night {number + 1} of {nights.total}")
        found.append(simulated(number, nights))
        if kept:
            lines.append(json.dumps(found[-1]._asdict()))
            write_text_atomic(kept, "\n".join(lines) + "\n")
    return {**nights._asdict(), "nights": [one._asdict() for one in found], "table": summarised(found)}


def night_of(number: int, nights: Nights) -> tuple[str, MadeNight]:
    """Return a night and where its law is from."""
    (rest, kind), seed = divmod(number, len(KINDS)), 1_000 * nights.seed + number
    place, is_world = divmod(rest, 2)
    if not is_world:
        return "made-up law", MadeNight(KINDS[kind], seed, nights.share)
    world = WORLDS[(place + kind) % len(WORLDS)]
    return f"world {world}", WorldNight(KINDS[kind], seed, nights.share, world)


def simulated(number: int, nights: Nights) -> SimulatedNight:
    """Return one night's decisions."""
    (source, night), gate, rollout = night_of(number, nights), Gate(), RolloutConfig()
    requests, shown, old, new = night.log(nights.judged)
    verdict = judge(old, new, [requests], shown, gate, resamples=_RESAMPLES, most_requests=nights.judged)
    decision, hours, why = verdict.decision, 0.0, [str(one) for one in verdict.checks if not one.holds]
    grows = decision != "keep"
    for place, share in enumerate(rollout.shares if grows else ()):
        grows, took, said = _stage(night, gate, rollout, share, place == len(rollout.shares) - 1)
        hours, why = hours + took, why + said
        if not grows:
            break
    seems = decision == "promote" or (decision == "unknown" and all(one.seems for one in verdict.checks))
    gain, cost = night.gain()
    return SimulatedNight(
        number,
        source,
        night.kind,
        night.share,
        gain,
        cost,
        decision,
        decision == "promote",
        seems,
        grows,
        round(hours, 1),
        why,
    )


def _stage(
    night: MadeNight, gate: Gate, rollout: RolloutConfig, share: float, decides: bool
) -> tuple[bool, float, list[str]]:
    """Return whether a stage grows, its hours, and what does not hold at its end."""
    looks = looks_of(rollout)
    for look, shown in zip(looks, night.rollout(share, [one.after_s for one in looks], A_DAY), strict=True):
        checks = checks_of_arms(gate, rollout, shown, look)
        decision = decided_by(checks, look, decides)
        if decision != "continue":
            failed = [f"{share:.0%}: {one}" for one in checks if not one.holds]
            return decision == "grow", look.after_s / 3_600, failed
    raise AssertionError("the last look decides")


def summarised(nights: Sequence[SimulatedNight]) -> dict[str, dict[str, Any]]:
    """Return by kind, and for all: nights, good and bad ones, promotions of each by every way, and the mean share of
    revenue that each way loses to always deciding rightly."""
    table = {}
    for kind in (*dict.fromkeys(one.kind for one in nights), "all"):
        own = [one for one in nights if kind in (one.kind, "all")]
        good, bad = [one for one in own if one.gain >= GOOD], [one for one in own if one.gain < 0]
        ways = {
            way: {
                "right": sum(getattr(one, way) for one in good),
                "wrong": sum(getattr(one, way) for one in bad),
                "lost": float(np.mean([max(one.gain, 0.0) - one.gain * getattr(one, way) for one in own])),
            }
            for way in ("gate", "figures", "rollout")
        }
        table[kind] = {"nights": len(own), "good": len(good), "bad": len(bad), **ways}
    return table
