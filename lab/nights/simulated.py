"""Many made-up nights, judged by the real gate and the real decisions of a rollout: which promotions were right."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lab.nights.made_night import KINDS, MadeNight
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
    after it, which took `hours`. `gain`: the new bundle's share of revenue more, by the law."""

    kind: str
    share: float
    gain: float
    decision: str
    gate: bool
    figures: bool
    rollout: bool
    hours: float
    why: list[str]


def run_simulated(count: int, seed: int, hear: Callable[[str], None], judged: int = JUDGED) -> dict[str, Any]:
    """Return `count` nights, of each kind in turn, and their table."""
    nights = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        hear(f"night {number + 1} of {count}: {kind}")
        nights.append(simulated(kind, 1_000 * seed + number, judged))
    return {"seed": seed, "nights": [one._asdict() for one in nights], "table": summarised(nights)}


def simulated(kind: str, seed: int, judged: int = JUDGED) -> SimulatedNight:
    """Return one night's decisions."""
    night, gate, rollout = MadeNight(kind, seed), Gate(), RolloutConfig()
    requests, shown, old, new = night.log(judged)
    verdict = judge(old, new, [requests], shown, gate, resamples=_RESAMPLES)
    decision, hours, why = verdict.decision, 0.0, [str(one) for one in verdict.checks if not one.holds]
    grows = decision != "keep"
    for number, share in enumerate(rollout.shares if grows else ()):
        grows, took, said = _stage(night, gate, rollout, share, number == len(rollout.shares) - 1)
        hours, why = hours + took, why + said
        if not grows:
            break
    seems = decision == "promote" or (decision == "unknown" and all(one.seems for one in verdict.checks))
    return SimulatedNight(
        kind, night.share, night.gain(), decision, decision == "promote", seems, grows, round(hours, 1), why
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
