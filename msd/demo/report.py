"""report.html: the demo's figures and curves on one page that needs no network."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from msd.contract.files import write_text_atomic
from msd.demo.showcase import Showcase
from msd.page import render_page, to_svg

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
        calibration=_lines(models, "calibration", predicted="predicted click rate", observed="observed click rate"),
        training=[
            _lines(models, "curve", epoch="epoch", train_loss="training logloss"),
            _lines(models, "curve", epoch="epoch", valid_auc="AUC on the valid rows"),
        ],
        timeline=_timeline(summary["began"], summary["steps"]),
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


def _timeline(began: dict[str, float], seconds: dict[str, float]) -> str:
    """Draw a bar from each step's begin to its end: steps that ran at the same time lie above each other."""
    figure = Figure(figsize=(9.2, 0.6 + 0.25 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), left=[began[name] for name in seconds], color="#0b6e4f")
    axes.bar_label(bars, [f"{duration:g} s" for duration in seconds.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("seconds since the first step")
    return to_svg(figure)


def _lines(models: dict[str, Any], figures: str, **axis: str) -> str:
    """Draw two values of each model's figures, x and y by name, with their meanings."""
    (x, meaning_x), (y, meaning_y) = axis.items()
    figure = Figure(figsize=(4.6, 4.2) if figures == "calibration" else (4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    if figures == "calibration":
        axes.plot([0, 1], [0, 1], color="#d1d5db", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, model in models.items():
        if points := model.get(figures):
            values = [[point[key] for point in points] for key in (x, y)]
            axes.plot(*values, "o-", markersize=3, label=_NAMES.get(name, name), color=_COLOURS.get(name))
    axes.set(xlabel=meaning_x, ylabel=meaning_y)
    axes.legend(frameon=False)
    return to_svg(figure)
