"""report.html: the demo's figures, a user's ranking and when each step ran, on one page that needs no network."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from msd.contract.files import write_text_atomic
from msd.demo.showcase import Showcase
from msd.page import render_page, to_svg

_NAMES = {"with-semantics": "with semantics", "without-semantics": "without semantics", "counts": "trees on counts"}


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
        timeline=_timeline(summary["began"], summary["steps"]),
    )
    write_text_atomic(path, page)


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
