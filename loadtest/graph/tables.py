"""The figures of the benchmark as tables for a screen. Measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from loadtest.graph.figures import PLAIN, REFERENCE, graph_in

Figures = Mapping[str, Any]


def tables(figures: Figures) -> Iterator[Table]:
    """Times of the reference model; leaner ones; ratios of all models, of rules, and of a bundle if there was one."""
    yield _times(figures)
    if figures["not_possible"]:
        yield _not_possible(figures["not_possible"])
    yield _quality(figures["lean"])
    yield _leaner(figures["lean"]["models"])
    yield _models(figures)
    yield _rules(figures)


def _times(figures: Figures) -> Table:
    turns: Mapping[str, Mapping[str, float]] = figures["microseconds"][REFERENCE]
    blocks = figures["microseconds_in_blocks"][REFERENCE]
    counts = list(turns[PLAIN])
    forms = {"block": blocks, "turns": turns}
    table = _table(
        "Reference model, µs a run, in a block of its own and in turns with all others",
        "graph",
        [f"N = {count}\n{form}" for count in counts for form in forms],
    )
    for name in turns:
        table.add_row(
            name,
            *(f"{times[name][count]:,.0f}" for count in counts for times in forms.values()),
            style="bold" if name == graph_in(figures["precision"]) else None,
        )
    return table


def _not_possible(reasons: Mapping[str, str]) -> Table:
    table = Table(title="Not possible here", title_justify="left", box=None, header_style="bold")
    table.add_column("graph")
    table.add_column("why")
    for name, reason in reasons.items():
        table.add_row(name, reason)
    return table


def _quality(lean: Mapping[str, Any]) -> Table:
    seeds = "1 seed" if lean["seeds"] == 1 else f"{lean['seeds']} seeds"
    table = _table(
        f"Leaner models − the reference, in ten-thousandths ({seeds})", "model", ["AUC", "logloss", "as good"]
    )
    for name, one in lean["models"].items():
        as_good = {None: "too few seeds", True: "yes", False: "not sure"}[one["as_good"]]
        table.add_row(name, _difference(one["auc"]), _difference(one["logloss"]), as_good)
    return table


def _difference(metric: Mapping[str, Any]) -> str:
    low, high = metric["ci95"] or (float("nan"), float("nan"))
    return f"{1e4 * metric['difference']:+.1f} ({1e4 * low:+.1f} to {1e4 * high:+.1f})"


def _leaner(models: Mapping[str, Mapping[str, Any]]) -> Table:
    counts = list(next(iter(models.values()))["ratios"]["fp32"])
    table = _table("The reference's tiled time ÷ leaner models'", "model", counts)
    for name, one in models.items():
        for precision, ratios in one["ratios"].items():
            best = "bold" if precision == one["precision"] else None
            table.add_row(f"{name}, {precision}", *(f"{ratios[count]:.2f}" for count in counts), style=best)
    return table


def _models(figures: Figures) -> Table:
    ratios: dict[str, Mapping[str, float]] = dict(figures["pass_ratios"])
    if figures["bundle_ratios"]:
        ratios["bundle, as exported"] = figures["bundle_ratios"]
    counts = list(next(iter(ratios.values())))
    table = _table("Plain ÷ factorised", "model", [*counts, "factorised ÷ twin"])
    for name, by_count in ratios.items():
        twin = figures["twin_ratios"].get(name)
        table.add_row(name, *(f"{by_count[count]:.2f}" for count in counts), "" if twin is None else f"{twin:.2f}")
    return table


def _rules(figures: Figures) -> Table:
    ratios: Mapping[str, Mapping[str, float]] = figures["rule_ratios"]
    counts = list(next(iter(ratios.values())))
    table = _table("Without a rule ÷ with all", "rule", counts)
    for name, by_count in ratios.items():
        table.add_row(name, *(f"{by_count[count]:.2f}" for count in counts))
    return table


def _table(title: str, first: str, others: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(f"N = {name}" if name.isdigit() else name, justify="right")
    return table
