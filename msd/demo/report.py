"""report.html: the demo's figures, a user's ranking and the time of each step, on one page that needs no network."""

from pathlib import Path
from typing import Any

from msd.contract.files import write_text_atomic
from msd.demo.showcase import Showcase
from msd.page import render_page

_NAMES = {
    "with-semantics": "with semantics",
    "without-semantics": "without semantics",
    "regression": "logistic regression on IDs and fields",
    "counts": "trees on counts",
}


def write_report(path: Path, summary: dict[str, Any], evaluation: dict[str, Any], shown: Showcase) -> None:
    """Write the page."""
    models = evaluation["models"]
    page = render_page(
        "msd.demo",
        "report.html.j2",
        summary=summary,
        rows=evaluation["rows"],
        models={_NAMES.get(name, name): figures["metrics"] for name, figures in models.items()},
        metrics=list(next(iter(models.values()))["metrics"]),
        shown=shown,
    )
    write_text_atomic(path, page)
