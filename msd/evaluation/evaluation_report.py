"""report.html of `msd evaluate`: figures, intervals, curves and slices on one page that needs no network.

Names and values chosen by users are written only by the template, which escapes them; drawings have colours only.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from msd.contract.files import write_text_atomic
from msd.evaluation.verdict import say_best, say_semantics
from msd.page import render_page, to_svg

_COLOURS = ("#0b6e4f", "#c46a1b", "#3b5bdb", "#9c36b5", "#c92a2a", "#0c8599", "#5c940d")
_BASELINE_COLOUR = "#6b7280"
_TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "uauc": "UAUC",
    "normalised_entropy": "normalised entropy",
    "ece": "ECE",
    "predicted_over_observed": "predicted ÷ observed",
}
_RATES = (("AUC", "auc"), ("logloss", "logloss"), ("ECE", "ece"))
Figures = Mapping[str, Any]


class Scale(NamedTuple):
    """Axis range, drawn from left to right as 0 to 100 %."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Scale":
        """Return the scale that shows all values, with a margin."""
        known = [value for value in values if value is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        margin = 0.08 * (high - low) or 0.01
        return cls(low - margin, high + margin)

    def at(self, value: float) -> float:
        """Return the position of a value in percent, clamped to the scale."""
        return min(100.0, max(0.0, round(100 * (value - self.low) / (self.high - self.low), 2)))


def write_report(path: Path, results: Figures) -> None:
    """Draw and write the page of the results of `evaluate_models`."""
    models = results["models"]
    colours = dict(zip(models, cycle(_COLOURS), strict=False))
    colours[list(models)[-1]] = _BASELINE_COLOUR
    differences = results["differences"]
    page = render_page(
        "msd.evaluation",
        "evaluation_report.html.j2",
        results=results,
        verdicts=[say_best(results), *([say_semantics(results["verdict"])] if results["verdict"] else [])],
        models=models,
        colours=colours,
        titles=_TITLES,
        metrics=list(next(iter(models.values()))["metrics"]),
        auc_scale=Scale.of([end for model in models.values() for end in _ends(model["ci95"]["users"]["auc"])]),
        gain_scale=Scale.of(
            [0.0, *(end for difference in differences for end in _ends(difference["auc"]["users"]["ci95"]))]
        ),
        slice_scale=Scale.of(
            [0.5, *(one["auc"] for held in results["slices"] for one in held.get("models", {}).values())]
        ),
        slice_gain_scale=_gain_scale(results["slices"]),
        calibration=_calibration(models, colours),
        training=[
            _curves(models, colours, "train_loss", "training logloss"),
            _curves(models, colours, "valid_auc", "AUC on the valid rows"),
        ],
        say_rate=say_rate,
    )
    write_text_atomic(path, page)


def say_rate(of: str, found: dict[str, float] | None) -> str:
    """Return in words how well conversions are predicted, of clicks or of impressions."""
    what = "conversions of clicks" if of == "pcvr" else "converted clicks of impressions"
    if found is None:
        return f"{what} ({of}): all test rows have one outcome"
    figures = ", ".join(f"{name} {found[key]:.4f}" for name, key in _RATES)
    return f"{what} ({of}): {figures}, on {found['rows']:,.0f} rows with a base rate of {found['base_rate']:.4f}"


def _ends(ci95: Sequence[float] | None) -> list[float]:
    return list(ci95 or [])


def _gain_scale(slices: Sequence[Figures]) -> Scale:
    """Return the scale of gains over the second model, fitted to the larger half of the slices: their intervals are
    narrower."""
    measured = sorted((one for one in slices if "models" in one), key=lambda one: -int(one["rows"]))
    gains = [next(iter(one["auc_gain_of_first"].values())) for one in measured[: len(measured) // 2 + 1]]
    return Scale.of([0.0, *(end for gain in gains for end in _ends(gain["ci95"]))])


def _calibration(models: Figures, colours: Mapping[str, str]) -> str:
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#d1d5db", linewidth=1)
    for name, figures in models.items():
        predicted, observed = ([one[key] for one in figures["calibration"]] for key in ("predicted", "observed"))
        axes.plot(predicted, observed, "o-", markersize=4, color=colours[name])
    axes.set(xlabel="predicted click rate", ylabel="observed click rate", xlim=(0, 1), ylim=(0, 1))
    return to_svg(figure)


def _curves(models: Figures, colours: Mapping[str, str], value: str, meaning: str) -> str:
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for name, figures in models.items():
        if curve := figures.get("curve"):
            epochs, values = [point["epoch"] for point in curve], [point[value] for point in curve]
            axes.plot(epochs, values, "o-", markersize=3, color=colours[name])
    axes.set(xlabel="epoch", ylabel=meaning)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_svg(figure)
