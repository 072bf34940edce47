"""The gate that a new bundle has to pass before it replaces the old one: bounds, their checks, and the verdict."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Figures = dict[str, Any]
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gate(BaseModel):
    """Bounds. The new bundle is promoted if `gain` is surely better and nothing else is worse than allowed.

    `chance`: probability of a sure gain between equal bundles, each time that they are judged. If requests explored,
    there must be a gain on their comparable impressions, too. `auc`, `logloss` and `ece`: most by which each may be
    worse. `calibration`: largest factor between predicted and observed clicks of a segment of requests, and
    conversions, unless the old bundle's is larger. `value`: largest share of the value of a first impression (DR) that
    may be lost, if the log has propensities. `latency`: the new bundle's median time for a request ÷ the old one's.
    `refused`: share of requests that the new bundle refuses. `clicks`: fewest clicks to judge by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: Literal["logloss", "auc"] = "logloss"
    chance: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    auc: _NonNegative = 0.002
    logloss: _NonNegative = 0.0
    ece: _NonNegative = 0.005
    calibration: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.25
    value: _NonNegative = 0.02
    latency: Annotated[float, Field(gt=0)] = 2.0
    refused: _NonNegative = 0.0
    clicks: Annotated[int, Field(ge=1)] = 100


class Check(NamedTuple):
    """One check of the gate: its figure and bound, and whether it holds."""

    name: str
    figure: float | None
    bound: str
    holds: bool

    def __str__(self) -> str:
        figure = "unknown" if self.figure is None else f"{self.figure:+.4g}"
        return f"{self.name}: {figure}, {self.bound}"


def checks_of(gate: Gate, figures: Figures) -> list[Check]:
    """Return the checks of what `judge` measured. Without both labels, or with too few clicks, there is one."""
    clicks = figures["clicks"]
    if min(clicks, figures["impressions"] - clicks) < gate.clicks:
        return [Check("clicks", clicks, f"needs {gate.clicks} impressions with a click, and as many without", False)]
    return list(_checks(gate, figures))


def _checks(gate: Gate, figures: Figures) -> Iterator[Check]:
    differences, models = figures["differences"], figures["models"]
    sign, needs = 1 if gate.gain == "auc" else -1, "needs more than 0"
    gained = differences[gate.gain]
    worst = sign * gained["difference"] - NormalDist().inv_cdf(1 - gate.chance) * gained["error"]
    yield Check(f"sure gain of {gate.gain}", worst, needs, worst > 0)
    comparable = figures["comparable"]
    if min(comparable["clicks"], comparable["impressions"] - comparable["clicks"]) >= gate.clicks:
        gain = sign * comparable["differences"][gate.gain]["difference"]
        yield Check(f"gain of {gate.gain} on explored requests", gain, needs, gain > 0)
    for metric, sign, most in (("auc", -1, gate.auc), ("logloss", 1, gate.logloss)):
        worse = sign * differences[metric]["difference"]
        yield Check(f"loss of {metric}", worse, f"at most {most:g}", worse <= most)
    ece = models["new"]["ece"] - models["old"]["ece"]
    yield Check("rise of ece", ece, f"at most {gate.ece:g}", ece <= gate.ece)
    for name, segment in figures["segments"].items():
        if segment["clicks"] >= gate.clicks:
            new, old = (factor_of(segment["predicted_over_observed"][one]) for one in ("new", "old"))
            most = max(gate.calibration, old)
            yield Check(f"calibration of {name} requests, as a factor", new, f"at most {most:.4g}", new <= most)
    if all(models[one]["pcvr"] for one in ("new", "old")):
        new, old = (factor_of(models[one]["pcvr"]["predicted_over_observed"]) for one in ("new", "old"))
        most = max(gate.calibration, old)
        yield Check("calibration of pcvr, as a factor", new, f"at most {most:.4g}", new <= most)
    if value := figures["value"]:
        gap, whole = (value[name]["dr"].value for name in ("difference", "old"))
        lost = -gap / whole if whole else 0.0
        yield Check("share of value lost", lost, f"at most {gate.value:g}", lost <= gate.value)
    ratio = models["new"]["ms"] / models["old"]["ms"]
    yield Check("latency, new ÷ old", ratio, f"at most {gate.latency:g}", ratio <= gate.latency)
    share = figures["refused"]["new"] / figures["requests"]
    yield Check("share of requests that it refuses", share, f"at most {gate.refused:g}", share <= gate.refused)


def factor_of(ratio: float) -> float:
    """Return how far predicted clicks ÷ observed ones are from 1, as a factor: infinite if none were predicted."""
    return math.exp(abs(math.log(ratio))) if ratio > 0 else math.inf
