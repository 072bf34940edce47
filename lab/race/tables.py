"""Tables of the benchmark's figures for a screen. Measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from lab.race.figures import PLAIN, REFERENCE, graph_in
from msd.report import table

Figures = Mapping[str, Any]


def tables(figures: Figures) -> Iterator[Table]:
    """Yield times of the reference model; leaner models; and ratios of all models, of rules, and of any bundle."""
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
    made = table(
        "Reference model, µs a run, in a block of its own and in turns with all others",
        ["graph", *(f"N = {count}\n{form}" for count in counts for form in forms)],
    )
    for name in turns:
        made.add_row(
            name,
            *(f"{times[name][count]:,.0f}" for count in counts for times in forms.values()),
            style="bold" if name == graph_in(figures["precision"]) else None,
        )
    return made


def _not_possible(reasons: Mapping[str, str]) -> Table:
    made = table("Not possible here", ("graph", "why"), texts=2)
    for name, reason in reasons.items():
        made.add_row(name, reason)
    return made


def _quality(lean: Mapping[str, Any]) -> Table:
    seeds = "1 seed" if lean["seeds"] == 1 else f"{lean['seeds']} seeds"
    made = table(f"Leaner models − the reference, in ten-thousandths ({seeds})", ("model", "AUC", "logloss", "as good"))
    for name, one in lean["models"].items():
        as_good = {None: "too few seeds", True: "yes", False: "not sure"}[one["as_good"]]
        made.add_row(name, _difference(one["auc"]), _difference(one["logloss"]), as_good)
    return made


def _difference(metric: Mapping[str, Any]) -> str:
    low, high = metric["ci95"] or (float("nan"), float("nan"))
    return f"{1e4 * metric['difference']:+.1f} ({1e4 * low:+.1f} to {1e4 * high:+.1f})"


def _leaner(models: Mapping[str, Mapping[str, Any]]) -> Table:
    counts = list(next(iter(models.values()))["ratios"]["fp32"])
    made = table("The reference's tiled time ÷ leaner models'", ["model", *map(_count, counts)])
    for name, one in models.items():
        for precision, ratios in one["ratios"].items():
            best = "bold" if precision == one["precision"] else None
            made.add_row(f"{name}, {precision}", *(f"{ratios[count]:.2f}" for count in counts), style=best)
    return made


def _models(figures: Figures) -> Table:
    ratios: dict[str, Mapping[str, float]] = dict(figures["pass_ratios"])
    if figures["bundle_ratios"]:
        ratios["bundle, as exported"] = figures["bundle_ratios"]
    counts = list(next(iter(ratios.values())))
    made = table("Plain ÷ factorised", ["model", *map(_count, counts), "factorised ÷ twin"])
    for name, by_count in ratios.items():
        twin = figures["twin_ratios"].get(name)
        made.add_row(name, *(f"{by_count[count]:.2f}" for count in counts), "" if twin is None else f"{twin:.2f}")
    return made


def _rules(figures: Figures) -> Table:
    ratios: Mapping[str, Mapping[str, float]] = figures["rule_ratios"]
    counts = list(next(iter(ratios.values())))
    made = table("Without a rule ÷ with all", ["rule", *map(_count, counts)])
    for name, by_count in ratios.items():
        made.add_row(name, *(f"{by_count[count]:.2f}" for count in counts))
    return made


def _count(candidates: str) -> str:
    return f"N = {candidates}"
