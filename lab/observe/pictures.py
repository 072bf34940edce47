"""A picture of a dashboard with data of a live run, in Grafana's layout and other colours."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.observe.found import PanelCurve, Shown
from lab.observe.live import Watched
from msd.dashboards.board import Board, Panel, Unit
from msd.page import to_png

_GRID = 12
_WIDTHS = {2: 6, 4: 3}
_MOST_NAMED = 8
_UNITS: dict[Unit, str] = {
    "s": "seconds",
    "bytes": "MB",
    "percentunit": "share",
    "reqps": "a second",
    "cps": "a second",
    "cores": "cores",
    "short": "",
}
_MB = 2**20


def picture(board: Board, shown: Sequence[Shown], run: Watched) -> bytes:
    """Return a PNG of all panels, row by row."""
    by_title = {one.title: one for one in shown}
    lines = [panels for row in board.rows for panels in _lines_of(row.panels)]
    figure = Figure(figsize=(15.0, 0.5 + 2.3 * len(lines)), layout="constrained")
    figure.suptitle(_happened(run), fontsize=9, color="#c92a2a")
    grid = figure.add_gridspec(len(lines), _GRID)
    for line, (panels, width) in enumerate(lines):
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(grid[line, place * width : (place + 1) * width])
            _draw(axes, panel, by_title[panel.title].curves, run)
    return to_png(figure)


def _lines_of(panels: Sequence[Panel]) -> Iterator[tuple[Sequence[Panel], int]]:
    """Return a row's panels by line, with their widths, as Grafana places them."""
    width = _WIDTHS.get(len(panels), _GRID // 3)
    for at in range(0, len(panels), _GRID // width):
        yield panels[at : at + _GRID // width], width


def _happened(run: Watched) -> str:
    return " · ".join(f"{number} {what}" for number, (_, what) in enumerate(run.marks, start=1))


def _draw(axes: Axes, panel: Panel, curves: Sequence[PanelCurve], run: Watched) -> None:
    scale = 1 / _MB if panel.unit == "bytes" else 1.0
    if panel.is_stacked:
        _stack(axes, curves, run)
    else:
        for curve in curves:
            seconds = [at - run.start for at, _ in curve.points]
            axes.plot(seconds, [value * scale for _, value in curve.points], linewidth=1, label=curve.name)
    if not any(curve.points for curve in curves):
        axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center", fontsize=8, color="#9ca3af")
    axes.set_title(panel.title, fontsize=8.5, loc="left")
    axes.set_ylabel(_UNITS[panel.unit], fontsize=7)
    axes.tick_params(labelsize=6.5)
    axes.set_xlim(0, run.end - run.start)
    # Room for the legend.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.grid(alpha=0.2)
    if panel.limit is not None and panel.limit < 2 * axes.get_ylim()[1]:
        axes.axhline(panel.limit, color="#c92a2a", linewidth=0.7, linestyle=":")
    for number, (at, _) in enumerate(run.marks, start=1):
        axes.axvline(at - run.start, color="#c92a2a", linewidth=0.4, alpha=0.5)
        axes.annotate(
            str(number), (at - run.start, 1.0), xycoords=("data", "axes fraction"), fontsize=5, color="#c92a2a"
        )
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(handles[:_MOST_NAMED], names[:_MOST_NAMED], fontsize=5.5, frameon=False, loc="upper left", ncols=2)


def _stack(axes: Axes, curves: Sequence[PanelCurve], run: Watched) -> None:
    """Draw stacked curves; those that are always 0 are left out."""
    seconds = np.arange(int(run.end - run.start) + 1)
    floor = np.zeros(len(seconds))
    for curve in (one for one in curves if any(value for _, value in one.points)):
        values = np.zeros(len(seconds))
        for at, value in curve.points:
            values[min(len(seconds) - 1, round(at - run.start))] = value
        axes.fill_between(seconds, floor, floor + values, alpha=0.6, linewidth=0, label=curve.name)
        floor = floor + values
