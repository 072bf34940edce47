"""report.html: the demo's figures and curves on one page that needs no network."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from msd.contract.files import write_text_atomic
from msd.demo.showcase import Showcase
from msd.drawing import to_svg
from msd.page import render_page

_NAMES = {"with-semantics": "with semantics", "without-semantics": "without semantics", "counts": "trees on counts"}
_COLOURS = {"with-semantics": "#0b6e4f", "without-semantics": "#c46a1b", "counts": "#6b7280"}


def write_report(path: Path, summary: dict[str, Any], evaluation: dict[str, Any], shown: Showcase) -> None:
    """Draw and write the page."""
    models = evaluation["models"]
    page = render_page(
        "msd.demo",
        "report.html.j2",
        summary=summary,
        rows=evaluation["rows"],
        models={_NAMES.get(name, name): figures["metrics"] for name, figures in models.items()},
        metrics=list(next(iter(models.values()))["metrics"]),
        shown=shown,
        aucs=_aucs(models),
        calibration=_calibration(models),
        training=_training(models),
    )
    write_text_atomic(path, page)


def _aucs(models: dict[str, Any]) -> str:
    figure = Figure(figsize=(4.6, 2.2), layout="constrained")
    axes = figure.subplots()
    names = list(models)[::-1]
    values = [models[name]["metrics"]["auc"] for name in names]
    bars = axes.barh([_NAMES.get(name, name) for name in names], values, color=[_COLOURS.get(name) for name in names])
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.set_xlim(min(values) - 0.03, max(values) + 0.02)
    axes.set_xlabel("AUC (the axis does not start at 0)")
    return to_svg(figure)


def _calibration(models: dict[str, Any]) -> str:
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#d1d5db", linewidth=1)
    for name, figures in models.items():
        predicted, observed = ([one[key] for one in figures["calibration"]] for key in ("predicted", "observed"))
        axes.plot(predicted, observed, "o-", markersize=4, label=_NAMES.get(name, name), color=_COLOURS.get(name))
    axes.set(xlabel="predicted click rate", ylabel="observed click rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return to_svg(figure)


def _training(models: dict[str, Any]) -> list[str]:
    return [_curves(models, "train_loss", "training logloss"), _curves(models, "valid_auc", "AUC on the valid rows")]


def _curves(models: dict[str, Any], value: str, meaning: str) -> str:
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for name, figures in models.items():
        if curve := figures.get("curve"):
            epochs, values = [point["epoch"] for point in curve], [point[value] for point in curve]
            axes.plot(epochs, values, "o-", markersize=3, label=_NAMES.get(name, name), color=_COLOURS.get(name))
    axes.set(xlabel="epoch", ylabel=meaning)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return to_svg(figure)
