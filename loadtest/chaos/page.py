"""chaos.html: each scenario with what had to hold, its figures, and its drawing, on one page that needs no network."""

from collections.abc import Mapping
from typing import Any

from loadtest.chaos.chaos import KEYS, timeline_of
from loadtest.chaos.environment import Environment
from loadtest.chaos.pictures import picture
from msd.page import render_page


def chaos_page(summary: Mapping[str, Any], environment: Environment) -> str:
    """The page of what `run_chaos` returned."""
    timelines = {name: timeline_of(environment, name) for name in summary["scenarios"]}
    return render_page(
        "loadtest.chaos",
        "page.html.j2",
        summary=summary,
        keys=KEYS,
        pictures={name: picture(one) for name, one in timelines.items() if one and (one["bins"] or one["levels"])},
        marks={name: one["marks"] for name, one in timelines.items() if one},
    )
