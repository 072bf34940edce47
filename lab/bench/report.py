"""The benchmark's figures as console tables, and as SVG: latency against load, stages of a request, time against
candidates. Measures nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from rich.table import Table

from lab.bench.contestants import KINDS, OWN
from loadtest.session.page import latency_against_load
from msd.page import to_svg
from msd.report import table

Figures = Mapping[str, Any]
_SHOWN_SHARE = 0.02


def tables(figures: Figures) -> Iterator[Table]:
    """Yield the tables: all services by store, ours under arrivals, rows, and limits."""
    yield _services(figures, "redis", "rows from Redis")
    yield _services(figures, "file", "rows in memory or the bundle's file")
    yield _arrivals(figures)
    rows = table("Rows", ("figure", "value"))
    for name, value in (figures["rows"] | {"delta_visible_ms": figures["delta_visible_ms"]}).items():
        rows.add_row(name, f"{value:,.2f}")
    yield rows
    limits = table("If nothing but the model's runs cost time", ("figure", "found", "limit"))
    found = {f"throughput_ratio_{kind}": figures["redis"][kind]["throughput_ratio"] for kind in OWN}
    for name, limit in figures["limits"].items():
        limits.add_row(name, f"{(found | figures['arrivals']['best'])[name]:.2f}", f"{limit:.2f}")
    yield limits


def _services(figures: Figures, store: str, title: str) -> Table:
    made = table(
        f"{title}, N = {figures['candidates']}",
        ("service", "workers", "requests/s", "×", "p50 ms, one client", "×", "p99 ms", "outside the model"),
    )
    for kind in KINDS:
        found = figures[store][kind]
        ratios = (
            (f"{found['throughput_ratio']:.1f}", f"{found['p50_ratio']:.1f}", f"{found['overhead_share']:.0%}")
            if kind in OWN
            else ("", "", "")
        )
        made.add_row(
            *(_name(figures, kind), str(figures["workers"][kind]), f"{found['requests_per_s']:,.0f}", ratios[0]),
            *(f"{found['p50_ms']:.2f}", ratios[1], f"{found['p99_ms']:.2f}", ratios[2]),
        )
    return made


def _arrivals(figures: Figures) -> Table:
    made = table(
        "Poisson arrivals, rows from Redis",
        ("service", "load", "offered/s", "scored/s", "p50 ms", "p99 ms", "p99.9 ms", "p99 ÷ p50 at rest"),
    )
    for kind in OWN:
        for load in (70, 200):
            found = figures["arrivals"][kind][f"at_{load}_percent"]
            times = (f"{found[name]:.2f}" for name in ("p50_ms", "p99_ms", "p99.9_ms"))
            offered, at_rest = found["offered"] / found["seconds"], figures["redis"][kind]["p50_ms"]
            rates = (f"{offered:,.0f}", f"{found['goodput']:,.0f}")
            made.add_row(_name(figures, kind), f"{load} %", *rates, *times, f"{found['p99_ms'] / at_rest:.1f}")
    return made


def load_picture(figures: Figures) -> str:
    """Draw p50 and p99 by offered rate."""
    kinds = zip(figures["load_curve"].items(), ("C0", "C1"), strict=False)
    curves = [(f"{_name(figures, kind)}, ", colour, points) for (kind, points), colour in kinds]
    return latency_against_load(curves, {}, (6.4, 4.4))


def candidates_picture(figures: Figures) -> str:
    """Draw p50 of one client by number of candidates."""
    figure, axes = _axes()
    for kind, by_count in figures["p50_ms_by_candidates"].items():
        counts = [int(count) for count in by_count]
        axes.plot(counts, list(by_count.values()), marker="o", ms=3, label=_name(figures, kind))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts)
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
    stages_ms = {kind: figures["redis"][kind]["stages_ms"] for kind in OWN}
    for row, stages in enumerate(stages_ms.values()):
        start = 0.0
        for number, (stage, taken) in enumerate(stages.items()):
            axes.barh(row, max(taken, 0.0), left=start, color=f"C{number}", label=stage if row == 0 else None)
            if taken > _SHOWN_SHARE * sum(stages.values()):
                axes.text(start + taken / 2, row, f"{taken:.2f}", ha="center", va="center", fontsize=7)
            start += max(taken, 0.0)
    axes.set_yticks(range(len(OWN)), [_name(figures, kind) for kind in OWN])
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
