"""SVG of times in blocks against the number of candidates, both on log axes. Measures nothing."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from lab.race.figures import PASSED, REFERENCE, TILED, floor_of, graph_in
from msd.drawing import to_svg


def picture(figures: Mapping[str, Any]) -> str:
    """Draw the reference model: tiled, factorised, in the best precision, and its matrix products alone in that."""
    times, precision = figures["microseconds_in_blocks"][REFERENCE], figures["precision"]
    lines = {"tiled, fp32": TILED, "factorised, fp32": PASSED}
    if precision != "fp32":
        lines[f"factorised, {precision}"] = graph_in(precision)
    lines[f"its matrix products alone, {precision}"] = floor_of(precision)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for label, contestant in lines.items():
        counts = [int(count) for count in times[contestant]]
        style = "--" if contestant == floor_of(precision) else "-"
        milliseconds = [taken / 1e3 for taken in times[contestant].values()]
        axes.plot(counts, milliseconds, style, marker="o", markersize=3, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([int(count) for count in times[TILED]])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("candidates")
    axes.set_ylabel("milliseconds, one thread")
    axes.grid(alpha=0.3)
    axes.legend()
    return to_svg(figure)
