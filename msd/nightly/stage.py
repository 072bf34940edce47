"""One stage of a rollout: its two arms are compared by revenue per request at times that are set before, until one is
surely better. Does not know files, services or clocks.
"""

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from msd.feedback.arms import ArmSums, Estimate, ratio_of_medians
from msd.feedback.gate import Check, Gate, Outcome, above_zero, at_most, factor_of
from msd.nightly.config import RolloutConfig

OLD, NEW = "champion", "new"
StageDecision = Literal["grow", "stop", "continue"]
_GAIN = "gain of"


class Look(NamedTuple):
    """A time to compare the arms, in seconds after the stage began; how many standard errors make a difference sure;
    and whether it is the last."""

    after_s: float
    z: float
    is_last: bool


class Stage(BaseModel):
    """A share of the users, its time (Unix s; `ended` is 0 until then), figures by arm, what was checked, and whether
    the share may grow."""

    model_config = ConfigDict(extra="forbid")

    share: float
    began: float = 0.0
    ended: float = 0.0
    arms: dict[str, Any] = {}
    checks: list[Check] = []
    decision: StageDecision = "continue"

    @property
    def earns_less(self) -> bool:
        """Return whether the new bundle surely earned less."""
        return any(check.name.startswith(_GAIN) and check.outcome == "fails" for check in self.checks)


def looks_of(rollout: RolloutConfig) -> list[Look]:
    """Return the times to look: after `hold_minutes`, after twice as long, and so on to `most_hours`. Each look spends
    of `chance` as much as time passed since the one before (Lan and DeMets, Biometrika 1983, in its simplest form)."""
    last, times = 3_600 * rollout.most_hours, list[float]()
    after = 60 * rollout.hold_minutes
    while after < last:
        times.append(after)
        after *= 2
    times.append(last)
    passed = [now - before for before, now in zip([0.0, *times], times, strict=False)]
    return [
        Look(at, NormalDist().inv_cdf(1 - rollout.chance * took / last), at == last)
        for at, took in zip(times, passed, strict=True)
    ]


def checks_of_arms(gate: Gate, rollout: RolloutConfig, shown: pl.DataFrame, look: Look) -> list[Check]:
    """Return the checks of the impressions `shown` by both arms."""
    of_new = shown.filter(pl.col("arm") == NEW)
    clicks = int(of_new["label"].sum()) if shown["arm"].n_unique() == 2 else 0
    enough: Outcome = "holds" if clicks >= rollout.clicks else "fails" if look.is_last else "unknown"
    checks = [Check("clicks of the new bundle", clicks, f"at least {rollout.clicks}", enough, is_needed=True)]
    return checks + list(_compared(gate, shown, look)) if enough == "holds" else checks


def _compared(gate: Gate, shown: pl.DataFrame, look: Look) -> Iterator[Check]:
    sums = ArmSums.of(shown, OLD)
    what = "revenue" if sums.tables["rpm"].sum(0).all() else "clicks"
    difference = sums.ratios({"revenue": "rpm", "clicks": "ctr"}[what], "requests").difference(1)
    gained = (difference.relative or difference.absolute).at(look.z)
    yield above_zero(f"{_GAIN} {what} per request", gained)
    clicks = sums.tables["ctr"].sum(0)
    if clicks[0] and clicks[1] >= gate.clicks:
        ratios = sums.ratios("predicted", "ctr")
        most = max(gate.calibration, factor_of(ratios.values[0]))
        yield at_most("calibration, as a factor", _factor(ratios.estimate(1)), most, f"at most {most:.4g}")
    times = [shown.filter(pl.col("arm") == arm)["total_ms"].to_list() for arm in (OLD, NEW)]
    yield at_most("latency, new ÷ old", ratio_of_medians(*times), gate.latency)


def _factor(ratio: Estimate) -> Estimate:
    """Return how far a ratio is from 1, as a factor."""
    ends = sorted(factor_of(end) for end in ratio.ci95)
    low = 1.0 if ratio.ci95[0] <= 1.0 <= ratio.ci95[1] else ends[0]
    return Estimate(factor_of(ratio.value), (low, ends[1]))


def decided_by(checks: Sequence[Check], look: Look, decides: bool) -> StageDecision:
    """Return what the checks of a stage decide, which is the last if it `decides`: `stop` if one surely fails; else
    `grow`, if there are clicks enough and, in the last stage, revenue is surely higher. What is not sure by the last
    look stops, too.
    """
    if any(check.outcome == "fails" for check in checks):
        return "stop"
    if any(check.is_needed and not check.holds for check in checks):
        return "continue"
    if not decides or any(check.holds for check in checks if check.name.startswith(_GAIN)):
        return "grow"
    return "stop" if look.is_last else "continue"
