"""The benchmark's figures as console tables, and as SVG: latency against load, stages of a request, time against
candidates. Measures nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from rich.table import Table

from lab.bench.contestants import KINDS
from loadtest.session.page import latency_against_load
from msd.page import to_svg
from msd.report import table

Figures = Mapping[str, Any]
_SHOWN_SHARE = 0.02


def tables(figures: Figures) -> Iterator[Table]:
    """Yield the tables: both services by store, ours under arrivals, rows, and limits."""
    yield _services(figures, "redis", "rows from Redis")
    yield _services(figures, "file", "rows in memory or the bundle's file")
    arrivals = table(
        "Poisson arrivals at our service, rows from Redis",
        ("load", "offered/s", "scored/s", "p50 ms", "p99 ms", "p99.9 ms", "p99 ÷ p50 at rest"),
    )
    for load in (70, 200):
        found = figures["arrivals"][f"at_{load}_percent"]
        times = (f"{found[name]:.2f}" for name in ("p50_ms", "p99_ms", "p99.9_ms"))
        offered, over = found["offered"] / found["seconds"], found["p99_ms"] / figures["redis"]["ours"]["p50_ms"]
        arrivals.add_row(f"{load} %", f"{offered:,.0f}", f"{found['goodput']:,.0f}", *times, f"{over:.1f}")
    yield arrivals
    rows = table("Rows", ("figure", "value"))
    rows.add_row("delta_visible_ms", f"{figures['delta_visible_ms']:,.2f}")
    yield rows
    limits = table("If nothing but the model's runs cost time", ("figure", "found", "limit"))
    for name, limit in figures["limits"].items():
        limits.add_row(name, f"{(figures['redis'] | figures['arrivals'])[name]:.2f}", f"{limit:.2f}")
    yield limits


def _services(figures: Figures, store: str, title: str) -> Table:
    found = figures[store]
    made = table(
        f"{title}, N = {figures['candidates']}",
        ("service", "workers", "requests/s", "×", "p50 ms, one client", "×", "p99 ms", "outside the model"),
    )
    ratios = {
        "naive": ("", "", ""),
        "ours": (f"{found['throughput_ratio']:.1f}", f"{found['p50_ratio']:.1f}", f"{found['overhead_share']:.0%}"),
    }
    for kind in KINDS:
        rate, p50, p99 = (found[kind][name] for name in ("requests_per_s", "p50_ms", "p99_ms"))
        throughput, latency, share = ratios[kind]
        numbers = (f"{rate:,.0f}", throughput, f"{p50:.2f}", latency, f"{p99:.2f}", share)
        made.add_row(_name(figures, kind), str(figures["workers"][kind]), *numbers)
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
    """Draw the stages of one request to our service as a waterfall."""
    figure, axes = _axes(height=1.8)
    start, stages = 0.0, figures["redis"]["stages_ms"]
    for number, (stage, taken) in enumerate(stages.items()):
        axes.barh(0, max(taken, 0.0), left=start, color=f"C{number}", label=stage)
        if taken > _SHOWN_SHARE * sum(stages.values()):
            axes.text(start + taken / 2, 0, f"{taken:.2f}", ha="center", va="center", fontsize=7)
        start += max(taken, 0.0)
    axes.set_yticks([0], [_name(figures, "ours")])
    axes.set_xlabel(f"milliseconds, one request of {figures['candidates']} candidates at rest, means")
    axes.legend(ncols=7, loc="upper center", bbox_to_anchor=(0.5, 1.4), fontsize=7, frameon=False)
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
    return "naive, fp32" if kind == "naive" else f"ours, {figures['precision']}"
