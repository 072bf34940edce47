"""The gate that a new bundle has to pass before it replaces the old one: bounds, their checks, and the decision.

A check holds surely, fails surely, or is unknown: its bound lies within the interval of its figure.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from msd.feedback.arms import Estimate

Figures = dict[str, Any]
Outcome = Literal["holds", "fails", "unknown"]
Decision = Literal["promote", "keep", "unknown"]
REVISION = 2
"""Version of what checks compute; increment it with each change, so that kept nights are judged again."""
_LIKELY = 0.025
"""Probability of a likely gain between equal bundles."""
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gate(BaseModel):
    """Bounds. The new bundle is promoted if `gain` is surely better and nothing else may be worse than allowed.

    `chance`: probability of a sure gain between equal bundles, each time that they are judged; where a gain is sure at
    .025 alone, a rollout may decide. All other intervals are of 95 %. If requests explored, there must be a gain on
    their comparable impressions, too. `auc`, `logloss` and `ece`: most by which each may be worse. `calibration`:
    largest factor between predicted and observed clicks of a segment of requests, and conversions, unless the old
    bundle's is larger. `value`: largest share of the value of a first impression (DR) that may be lost; it is known if
    requests whose ads the bundles choose differently are worth at least `support` equally weighted ones. `latency`: the
    new bundle's median time for a request ÷ the old one's. `refused`: share of requests that the new bundle refuses.
    `clicks`: fewest clicks to judge by. `unknown`: where checks are unknown and there is no rollout, the old bundle
    stays, or their figures decide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: Literal["logloss", "auc"] = "logloss"
    chance: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    auc: _NonNegative = 0.002
    logloss: _NonNegative = 0.0
    ece: _NonNegative = 0.005
    calibration: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.25
    value: _NonNegative = 0.02
    support: Annotated[int, Field(ge=1)] = 100
    latency: Annotated[float, Field(gt=0)] = 2.0
    refused: _NonNegative = 0.0
    clicks: Annotated[int, Field(ge=1)] = 100
    unknown: Literal["keep", "figures"] = "keep"


class Check(NamedTuple):
    """One check of the gate: its figure, bound and outcome, and the figure's interval, unless it is counted.

    `seems`: whether the figure holds, whatever its interval. `is_needed`: if its outcome is unknown, the old bundle
    stays, because nothing speaks for the new one.
    """

    name: str
    figure: float | None
    bound: str
    outcome: Outcome
    ci: tuple[float | None, float | None] | None = None
    seems: bool = False
    is_needed: bool = False

    @property
    def holds(self) -> bool:
        """Return whether it surely holds."""
        return self.outcome == "holds"

    @property
    def shown(self) -> str:
        """Return the figure and its interval."""
        if self.figure is None:
            return "unknown"
        low, high = self.ci or (None, None)
        return f"{self.figure:+.4g}" + (f" ({low:+.4g} to {high:+.4g})" if low is not None and high is not None else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.shown}, {self.bound}{'; unknown' if self.outcome == 'unknown' else ''}"


def counted(name: str, figure: float | None, bound: str, holds: bool) -> Check:
    """Return the check of a figure that is counted, not estimated."""
    return Check(name, figure, bound, "holds" if holds else "fails", seems=holds)


def at_most(name: str, estimate: Estimate, most: float, bound: str | None = None) -> Check:
    """Return the check of an estimate that may be `most`: unknown if that is within its interval, or it has none."""
    low, high = estimate.ci95
    outcome: Outcome = "holds" if high <= most else "fails" if low > most else "unknown"
    return Check(name, estimate.value, bound or f"at most {most:g}", outcome, estimate.ci95, estimate.value <= most)


def above_zero(name: str, estimate: Estimate, *, is_needed: bool = False) -> Check:
    """Return the check of an estimate that must be above 0."""
    low, high = estimate.ci95
    outcome: Outcome = "holds" if low > 0 else "fails" if high < 0 else "unknown"
    return Check(name, estimate.value, "needs more than 0", outcome, estimate.ci95, estimate.value > 0, is_needed)


def decided(checks: Sequence[Check]) -> Decision:
    """Return what the checks decide: `keep` the old bundle, if one fails or a needed one is unknown; `promote` the new
    one, if all hold; or that a rollout has to decide."""
    if any(check.outcome == "fails" or (check.is_needed and not check.holds) for check in checks):
        return "keep"
    return "promote" if all(check.holds for check in checks) else "unknown"


def checks_of(gate: Gate, figures: Figures) -> list[Check]:
    """Return the checks of what `judge` measured. Without both labels, or with too few clicks, there is one."""
    clicks = figures["clicks"]
    if min(clicks, figures["impressions"] - clicks) < gate.clicks:
        bound = f"needs {gate.clicks} impressions with a click, and as many without"
        return [Check("clicks", clicks, bound, "unknown", is_needed=True)]
    return [
        *_better(gate, figures),
        *_calibrated(gate, figures),
        _valued(gate, figures["value"]),
        *_fast(gate, figures),
    ]


def _better(gate: Gate, figures: Figures) -> Iterator[Check]:
    sign = {"auc": 1, "logloss": -1}
    differences, comparable = figures["differences"], figures["comparable"]
    z = NormalDist().inv_cdf(1 - gate.chance)
    gained, error = sign[gate.gain] * differences[gate.gain]["difference"], differences[gate.gain]["error"]
    surely = Estimate(gained, (gained - z * error, gained + z * error))
    sure = above_zero(f"sure gain of {gate.gain}", surely, is_needed=True)
    # What is likely, but not sure, a rollout may find out; nothing else promotes it.
    likely = sure.outcome == "unknown" and gained > NormalDist().inv_cdf(1 - _LIKELY) * error
    yield sure._replace(is_needed=not likely, seems=sure.holds)
    if min(comparable["clicks"], comparable["impressions"] - comparable["clicks"]) >= gate.clicks:
        gain = _signed(comparable["differences"][gate.gain], sign[gate.gain])
        yield above_zero(f"gain of {gate.gain} on explored requests", gain)
    for metric, most in (("auc", gate.auc), ("logloss", gate.logloss)):
        if metric != gate.gain:  # that is above 0 already
            yield at_most(f"loss of {metric}", _signed(differences[metric], -sign[metric]), most)
    yield at_most("rise of ece", figures["rise_of_ece"], gate.ece)


def _signed(difference: Figures, sign: int) -> Estimate:
    ends = difference["ci95"] or (math.nan, math.nan)
    low, high = sorted(sign * end for end in ends)
    return Estimate(sign * difference["difference"], (low, high))


def _calibrated(gate: Gate, figures: Figures) -> Iterator[Check]:
    segments = {f"{name} requests": one for name, one in figures["segments"].items()}
    if figures["conversions"]:
        segments["pcvr"] = figures["conversions"]
    for name, segment in segments.items():
        if segment["clicks"] < gate.clicks and name != "pcvr":
            continue
        old = factor_of(segment["predicted_over_observed"]["old"])
        bound = f"at most {max(gate.calibration, old):.4g}"
        check = at_most(f"calibration of {name}, as a factor", segment["factor"], gate.calibration, bound)
        # The old bundle's factor is an estimate, too: of the same clicks, so that theirs are compared in pairs.
        other = at_most("", segment["factor_over_old"], 1.0)
        both = (check.outcome, other.outcome)
        outcome: Outcome = "holds" if "holds" in both else "unknown" if "unknown" in both else "fails"
        yield check._replace(outcome=outcome, seems=check.seems or other.seems)


def _valued(gate: Gate, value: Figures | None) -> Check:
    """Return the check of the value of a first impression, which is unknown where the log lacks support."""
    name, bound = "share of value lost", f"at most {gate.value:g}"
    if not value:
        return Check(name, None, f"{bound}; no request explored", "unknown", seems=True)
    check, support = at_most(name, value["lost"], gate.value), value["support"]
    if not value["differ"] or (support.effective >= gate.support and support.is_whole):
        return check
    thin = f"{bound}; explored requests that differ are worth {support.effective:.0f}, needs {gate.support}"
    if support.effective >= gate.support:
        thin = f"{bound}; the mean weight of explored requests that differ is {support.weight.value:.3g}, needs 1"
    return check._replace(bound=thin, outcome="unknown")


def _fast(gate: Gate, figures: Figures) -> Iterator[Check]:
    yield at_most("latency, new ÷ old", figures["latency"], gate.latency)
    share = figures["refused"]["new"] / figures["requests"]
    bound = f"at most {gate.refused:g}"
    yield counted("share of requests that it refuses", share, bound, share <= gate.refused)


def factor_of(ratio: float) -> float:
    """Return how far predicted clicks ÷ observed ones are from 1, as a factor: infinite if none were predicted."""
    return math.exp(abs(math.log(ratio))) if 0 < ratio < math.inf else math.inf
