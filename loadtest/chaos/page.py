"""chaos.html: each scenario with what had to hold, its figures, and its drawing, on one page that needs no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.chaos.chaos import KEYS, timeline_of
from loadtest.chaos.environment import Environment
from loadtest.chaos.pictures import picture
from msd.contract.files import write_text_atomic
from msd.page import render_page


def write_page(path: Path, summary: Mapping[str, Any], environment: Environment) -> None:
    """Draws and writes the page of what `run_chaos` returned."""
    timelines = {name: timeline_of(environment, name) for name in summary["scenarios"]}
    page = render_page(
        "loadtest.chaos",
        "page.html.j2",
        summary=summary,
        keys=KEYS,
        pictures={name: picture(one) for name, one in timelines.items() if one and (one["bins"] or one["levels"])},
        marks={name: one["marks"] for name, one in timelines.items() if one},
    )
    write_text_atomic(path, page)
