"""Console tables of the benchmark's figures. Measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from msd.report import table

Figures = Mapping[str, Any]
_STORES = (("redis", "rows from Redis"), ("file", "rows in memory or the bundle's file"))


def tables(figures: Figures) -> Iterator[Table]:
    """Return the tables: all services by store, ratios, ours under arrivals, and stages of a request."""
    names = {"naive": "naive, fp32", "fp32": "ours, fp32", "best": f"ours, {figures['precision']}"}
    for store, title in _STORES:
        yield _services(figures, store, title, names)
    yield _arrivals(figures, names)
    yield _stages(figures, names)
    yield _rows(figures)
    yield _limits(figures)


def _services(figures: Figures, store: str, title: str, names: Mapping[str, str]) -> Table:
    found = figures["absolute"][store]
    ratios = figures if store == "redis" else figures["file"]
    made = table(
        f"{title}, N = {figures['candidates']}",
        ("service", "workers", "requests/s", "×", "p50 ms, one client", "×", "p99 ms", "outside the model"),
    )
    for kind, name in names.items():
        loaded, rested = found[kind]["at_capacity"], found[kind]["one_client"]
        own = kind != "naive"
        made.add_row(
            name,
            str(figures["workers"][kind]),
            f"{loaded['median_goodput']:,.0f}",
            f"{ratios[f'throughput_ratio_{kind}']:.1f}" if own else "",
            f"{rested['median_p50_ms']:.2f}",
            f"{ratios[f'p50_ratio_{kind}']:.1f}" if own else "",
            f"{rested['p99_ms']:.2f}",
            f"{ratios[f'overhead_share_{kind}']:.0%}" if own else "",
        )
    return made


def _arrivals(figures: Figures, names: Mapping[str, str]) -> Table:
    made = table(
        "Poisson arrivals, rows from Redis",
        ("service", "load", "offered/s", "scored/s", "p50 ms", "p99 ms", "p99.9 ms", "p99 ÷ p50 at rest"),
    )
    for kind, name in list(names.items())[1:]:
        rest = figures["absolute"]["redis"][kind]["one_client"]["median_p50_ms"]
        for load, one in (("70 %", "at_70_percent"), ("200 %", "at_200_percent")):
            found = figures["open_loop"][kind][one]
            offered = found["offered"] / found["seconds"]
            times = (found["p50_ms"], found["p99_ms"], found["p99.9_ms"])
            told = (f"{offered:,.0f}", f"{found['goodput']:,.0f}", *(f"{time:.2f}" for time in times))
            made.add_row(name, load, *told, f"{found['p99_ms'] / rest:.1f}")
    return made


def _stages(figures: Figures, names: Mapping[str, str]) -> Table:
    stages = list(figures["stages_ms"]["fp32"])
    made = table("A request at rest, ms", ("service", *stages))
    for kind, name in list(names.items())[1:]:
        found = figures["stages_ms"][kind]
        made.add_row(name, *(f"{found[stage]:.3f}" for stage in stages))
    return made


def _rows(figures: Figures) -> Table:
    made = table("Rows", ("figure", "value"))
    for name in ("lookup_ratio", "start_s_10m", "lookup_ratio_10m", "delta_visible_ms"):
        made.add_row(name, f"{figures[name]:,.2f}")
    return made


def _limits(figures: Figures) -> Table:
    made = table("If nothing but the model's runs cost time", ("figure", "found", "limit"))
    for name, limit in figures["limits"].items():
        made.add_row(name, f"{figures[name]:.2f}", f"{limit:.2f}")
    return made
