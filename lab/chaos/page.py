"""chaos.html: each scenario with its checks, figures and drawing, on one page that needs no network. A drawing shows
latency, outcomes and other values over time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.chaos.timeline import Kind
from msd.page import render_page, to_svg

_MOST_MARKS = 60
# Outcomes of requests, best first: label and colour.
KINDS: Mapping[Kind, tuple[str, str]] = {
    "full": ("scored in full", "#0b6e4f"),
    "encoded": ("scored, cold ad encoded", "#5c940d"),
    "cached": ("scored by rows as last known", "#8fbf9f"),
    "category_prior": ("scored by category", "#e8b04a"),
    "prior": ("scored by the prior", "#c46a1b"),
    "busy": ("429", "#9ca3af"),
    "late": ("504", "#c92a2a"),
    "not_ready": ("503", "#9c36b5"),
    "error": ("other 5xx", "#7f1d1d"),
    "invalid": ("4xx", "#3b5bdb"),
    "lost": ("connection lost", "#111827"),
    "unanswered": ("no reply", "#4b5563"),
    "refused": ("no connection", "#d1d5db"),
}


def chaos_page(summary: Mapping[str, Any]) -> str:
    """Return the page of the summary."""
    timelines = {name: result["timeline"] for name, result in summary["scenarios"].items()}
    drawn = {name: picture(timeline) for name, timeline in timelines.items() if timeline["bins"] or timeline["levels"]}
    return render_page("lab.chaos", "page.html.j2", summary=summary, pictures=drawn)


def picture(timeline: Mapping[str, Any]) -> str:
    """Return an SVG of `Timeline.as_json`'s result."""
    bins, levels, marks = timeline["bins"], timeline["levels"], timeline["marks"]
    is_long = len(marks) > _MOST_MARKS
    panels = (2 if bins else 0) + len(levels) + is_long
    figure = Figure(figsize=(8.6, 0.6 + (1.2 if is_long else 1.7) * max(1, panels)), layout="constrained")
    rows: list[Axes] = list(figure.subplots(max(1, panels), 1, sharex=True, squeeze=False)[:, 0])
    if bins:
        _latency(rows[0], bins)
        _kinds(rows[1], bins)
    for axes, (name, points) in zip(rows[2 if bins else 0 :], levels.items(), strict=False):
        axes.plot([at for at, _ in points], [value for _, value in points], color="#3b5bdb", linewidth=1)
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_ylim(bottom=0)
    for axes in rows:
        axes.grid(alpha=0.25)
    if is_long:
        _events(rows[-1], marks)
    else:
        _number(rows, marks)
    rows[-1].set_xlabel("seconds")
    return to_svg(figure)


def _number(rows: Sequence[Axes], marks: Sequence[tuple[float, str]]) -> None:
    """Draw marks over all panels, by number if there are many."""
    for number, (at_s, what) in enumerate(marks, start=1):
        for axes in rows:
            axes.axvline(at_s, color="#c92a2a", linewidth=0.8, linestyle="--")
        label = what if len(marks) <= 3 else str(number)
        rows[0].annotate(label, (at_s, 1.02), xycoords=("data", "axes fraction"), fontsize=7, color="#c92a2a")


def _events(axes: Axes, marks: Sequence[tuple[float, str]]) -> None:
    """Draw marks that repeat, a row for each kind."""
    kinds = list(dict.fromkeys(what for _, what in marks))
    axes.scatter([at for at, _ in marks], [kinds.index(what) for _, what in marks], marker="|", color="#c92a2a")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=6)


def _latency(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    for percentile, colour in (("p50_ms", "#0c8599"), ("p99_ms", "#c46a1b")):
        known = [(stretch["at_s"], stretch[percentile]) for stretch in bins if stretch[percentile] is not None]
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1, label=percentile[:3])
    axes.set_yscale("log")
    axes.set_ylabel("ms, of those scored")
    axes.legend(loc="upper right", ncols=2, fontsize=7, frameon=False)


def _kinds(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    """Draw requests per second by outcome, stacked."""
    seconds, widths = ([stretch[name] for stretch in bins] for name in ("at_s", "width_s"))
    floor = [0.0] * len(bins)
    for kind, (name, colour) in KINDS.items():
        rates = [stretch["kinds"].get(kind, 0) / stretch["width_s"] for stretch in bins]
        if any(rates):
            axes.bar(seconds, rates, widths, floor, align="edge", color=colour, label=name)
            floor = [below + rate for below, rate in zip(floor, rates, strict=True)]
    axes.set_ylabel("requests a second")
    axes.legend(loc="lower right", ncols=3, fontsize=7, framealpha=0.8)
