"""Drawing of a benchmark: AUC against the delay of feedback, gain against what is known of an item, and calibration."""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.benchmark.run import LIVE, Results
from lab.benchmark.summary import BenchmarkMetrics
from lab.benchmark.variant import OURS
from msd.bootstrap import compare_by_seed, resample_metrics
from msd.metrics import calibration, roc_auc
from msd.page import to_svg

_COLOURS = ("#0b6e4f", "#c46a1b", "#3b5bdb", "#9c36b5", "#c92a2a", "#0c8599", "#5c940d")
_GROUPS = 4


def draw_benchmark(results: Results, resamples: int) -> str:
    """Return the drawing as `<svg>`, of the views with live counts if there are any."""
    measured = BenchmarkMetrics(results, resamples)
    views = [view for view in measured.views if view.startswith(LIVE)] or measured.views
    colours = dict(zip(results.found, cycle(_COLOURS), strict=False))
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    delays, ages, curves = figure.subplots(1, 3)
    for name, colour in colours.items():
        aucs = [measured.by_seed(name, view, "auc") if measured.has(name, view) else None for view in views]
        shown = [(k, float(np.mean(auc))) for k, auc in enumerate(aucs) if auc]
        delays.plot(*zip(*shown, strict=True), "o-", markersize=4, color=colour, label=name)
    delays.set_xticks(range(len(views)), [view.replace("_", " ") for view in views])
    delays.set(ylabel="AUC")
    delays.legend(frameon=False, fontsize=7)
    for name in colours:
        if name != OURS and measured.has(name, views[0]):
            _gains(ages, measured, name, views[0], colours[name], resamples)
    ages.axhline(0.0, color="#d1d5db", linewidth=1)
    ages.set(xlabel="train impressions of the item, at most", ylabel=f"gain of ours in AUC, {views[0]}")
    curves.plot([0, 1], [0, 1], color="#d1d5db", linewidth=1)
    for view, colour in zip(views, cycle(_COLOURS), strict=False):
        rates = calibration(measured.rows.labels, measured.probabilities(OURS, view).mean(0))
        curves.plot(
            [one.predicted for one in rates],
            [one.observed for one in rates],
            "o-",
            markersize=4,
            color=colour,
            label=view,
        )
    curves.set(xlabel="predicted click rate of ours", ylabel="observed click rate")
    curves.legend(frameon=False, fontsize=7)
    return to_svg(figure)


def _gains(axes: Axes, measured: BenchmarkMetrics, name: str, view: str, colour: str, resamples: int) -> None:
    """Draw the gains of ours over a model, with 95 % intervals, in groups of rows by the item's train impressions."""
    ours, theirs = (measured.probabilities(one, view) for one in (OURS, name))
    seeds = min(len(ours), len(theirs))
    order: NDArray[np.int64] = np.argsort(measured.rows.item_impressions, kind="stable")
    for place, rows in enumerate(np.array_split(order, _GROUPS)):
        labels, users = measured.rows.labels[rows], measured.rows.users[rows]
        pair = ours[:seeds, rows], theirs[:seeds, rows]
        gain = float(np.mean([roc_auc(labels, a) - roc_auc(labels, b) for a, b in zip(*pair, strict=True)]))
        drawn = [resample_metrics(labels, one, users, resamples).auc for one in pair]
        low, high = compare_by_seed(drawn[0], drawn[1])["ci95"] or (gain, gain)
        ends = np.array([[gain - low], [high - gain]]).clip(0.0)
        axes.errorbar(place, gain, ends, fmt="o", markersize=4, color=colour, capsize=3)
    most = [int(measured.rows.item_impressions[rows[-1]]) for rows in np.array_split(order, _GROUPS)]
    axes.set_xticks(range(_GROUPS), [f"{count:,}" for count in most])
