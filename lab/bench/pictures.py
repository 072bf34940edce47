"""The benchmark's figures as SVG: latency against load, stages of a request, time against candidates."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from loadtest.session.pictures import latency_against_load
from msd.page import to_svg

Figures = Mapping[str, Any]
_SHOWN_MS = 0.02


def load_picture(figures: Figures) -> str:
    """Draw p50 and p99 by offered rate."""
    kinds = zip(figures["load_curve"].items(), ("C0", "C1"), strict=False)
    curves = [(f"{_name(figures, kind)}, ", colour, points) for (kind, points), colour in kinds]
    return latency_against_load(curves, {}, (6.4, 4.4))


def candidates_picture(figures: Figures) -> str:
    """Draw p50 of one client by number of candidates."""
    figure, axes = _axes()
    for kind, by_count in figures["p50_ms_by_candidates"].items():
        axes.plot(
            [int(count) for count in by_count], list(by_count.values()), marker="o", ms=3, label=_name(figures, kind)
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([int(count) for count in next(iter(figures["p50_ms_by_candidates"].values()))])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("candidates")
    axes.set_ylabel("milliseconds, p50 of one client")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.legend()
    return to_svg(figure)


def stages_picture(figures: Figures) -> str:
    """Draw the stages of one request as a waterfall."""
    figure, axes = _axes(height=3.0)
    kinds = list(figures["stages_ms"])
    for row, kind in enumerate(kinds):
        start = 0.0
        for number, (stage, taken) in enumerate(figures["stages_ms"][kind].items()):
            axes.barh(row, max(taken, 0.0), left=start, color=f"C{number}", label=stage if row == 0 else None)
            if taken > _SHOWN_MS * sum(figures["stages_ms"]["fp32"].values()):
                axes.text(start + taken / 2, row, f"{taken:.2f}", ha="center", va="center", fontsize=7)
            start += max(taken, 0.0)
    axes.set_yticks(range(len(kinds)), [_name(figures, kind) for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds, one request of {figures['candidates']} candidates at rest, means")
    axes.legend(ncols=7, loc="upper center", bbox_to_anchor=(0.5, 1.2), fontsize=7, frameon=False)
    return to_svg(figure)


PICTURES: Mapping[str, Callable[[Figures], str]] = {
    "load": load_picture,
    "stages": stages_picture,
    "candidates": candidates_picture,
}
"""Pictures by the suffix of their file name."""


def _axes(height: float = 4.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _name(figures: Figures, kind: str) -> str:
    return {"naive": "naive, fp32", "fp32": "ours, fp32", "best": f"ours, {figures['precision']}"}[kind]
