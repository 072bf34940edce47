"""A picture of a dashboard with data of a live run, in Grafana's layout and other colours."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.observe.live import Watched
from lab.observe.panels import Panel
from lab.observe.prometheus import Series
from msd.page import to_png

_COLUMNS = 24
# Inches of a row, and columns beside a panel's axes, for its title and labels.
_TITLE, _ROW, _BELOW, _TALL = 0.4, 2.3, 0.3, 1.7
_LEFT, _RIGHT = 0.8, 0.1
_NAMED = 8
_UNITS = {"s": "seconds", "bytes": "MB", "percentunit": "share", "reqps": "a second", "cps": "a second"}
_MB = 2**20
_RED = "#c92a2a"


def picture(shown: Mapping[Panel, Sequence[Series]], run: Watched) -> bytes:
    """Return a PNG of a dashboard's panels, row by row."""
    lines = sorted({panel.place[1] for panel in shown})
    height = _TITLE + _ROW * len(lines)
    figure = Figure(figsize=(15.0, height))
    happenings = " · ".join(f"{number} {what}" for number, (_, what) in enumerate(run.marks, start=1))
    figure.suptitle(happenings, y=1 - 0.1 / height, va="top", fontsize=9, color=_RED)
    for panel, curves in shown.items():
        x, y, width = panel.place
        bottom = 1 - (_TITLE + _ROW * (lines.index(y) + 1) - _BELOW) / height
        place = ((x + _LEFT) / _COLUMNS, bottom, (width - _LEFT - _RIGHT) / _COLUMNS, _TALL / height)
        _draw(figure.add_axes(place), panel, curves, run)
    return to_png(figure)


def _draw(axes: Axes, panel: Panel, curves: Sequence[Series], run: Watched) -> None:
    scale = 1 / _MB if panel.unit == "bytes" else 1.0
    for curve in curves:
        seconds = [at - run.start for at, _ in curve.points]
        axes.plot(seconds, [value * scale for _, value in curve.points], linewidth=1, label=curve.legend)
    axes.set_title(panel.title, fontsize=8.5, loc="left")
    axes.set_ylabel(_UNITS.get(panel.unit, ""), fontsize=7)
    axes.tick_params(labelsize=6.5)
    axes.set_xlim(0, run.end - run.start)
    # Room for the legend.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.grid(alpha=0.2)
    if panel.limit is not None and panel.limit < 2 * axes.get_ylim()[1]:
        axes.axhline(panel.limit, color=_RED, linewidth=0.7, linestyle=":")
    for number, (at, _) in enumerate(run.marks, start=1):
        axes.axvline(at - run.start, color=_RED, linewidth=0.4, alpha=0.5)
        axes.annotate(str(number), (at - run.start, 1.0), xycoords=("data", "axes fraction"), fontsize=5, color=_RED)
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(handles[:_NAMED], names[:_NAMED], fontsize=5.5, frameon=False, loc="upper left", ncols=2)
