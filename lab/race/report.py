"""Figures, tables and a picture of median times. Measures nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from rich.table import Table

from lab.race.leaner import AUC_MARGIN, LOGLOSS_MARGIN
from msd.page import to_svg
from msd.report import table

Times = Mapping[str, Mapping[int, float]]
"""Microseconds by contestant and number of candidates."""
Figures = Mapping[str, Any]

TILED, PLAIN, PASSED, TWIN, PRODUCTS = "tiled", "plain", "passed", "twin", "products"
_PRECISIONS = (PASSED, "int8", "bf16")
_USUAL = 200  # candidates


def summarised(times: Mapping[str, Times]) -> dict[str, Any]:
    """Return figures from median times by model, ready for JSON."""
    reference = times["reference"]
    return {
        "fastest": min((name for name in _PRECISIONS if name in reference), key=lambda name: reference[name][_USUAL]),
        "tiled_ratios": {
            model: {name: ratio(graphs, TILED, name) for name in graphs if name != TILED}
            for model, graphs in times.items()
            if TILED in graphs
        },
        "pass_ratios": {model: ratio(graphs, PLAIN, PASSED) for model, graphs in times.items()},
        "microseconds": {
            model: {
                name: {str(count): round(taken, 1) for count, taken in by_count.items()}
                for name, by_count in graphs.items()
            }
            for model, graphs in times.items()
        },
    }


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
    """Return how many times `fast` runs in the time of `slow`, by number of candidates."""
    return {str(count): round(times[slow][count] / taken, 4) for count, taken in times[fast].items()}


def tables(figures: Figures) -> Iterator[Table]:
    """Yield times of the reference and of the leaner model, ratios of all models, and the study, if any."""
    for model, ratios in figures["tiled_ratios"].items():
        times = figures["microseconds"][model]
        counts = list(times[PLAIN])
        columns = (f"N = {count}{form}" for count in counts for form in ("", ", tiled ÷"))
        made = table(f"The {model} model, µs a run", ["graph", *columns])
        for name, by_count in times.items():
            cells = (
                cell
                for count in counts
                for cell in (f"{by_count[count]:,.0f}", f"{ratios[name][count]:.2f}" if name in ratios else "")
            )
            made.add_row(name, *cells, style="bold" if name == figures["fastest"] else None)
        yield made
    made = table("Plain ÷ factorised", ["model", *(f"N = {count}" for count in figures["pass_ratios"]["reference"])])
    for model, by_count in figures["pass_ratios"].items():
        made.add_row(model, *(f"{taken:.2f}" for taken in by_count.values()))
    yield made
    if figures["not_possible"]:
        made = table("Not possible here", ("graph", "why"), texts=2)
        for name, reason in figures["not_possible"].items():
            made.add_row(name, reason)
        yield made
    if figures["study"]:
        yield _study(figures["study"])


def _study(study: Figures) -> Table:
    as_good = {None: "too few seeds to tell", True: "yes", False: "not shown"}[study["as_good"]]
    made = table(
        f"The lean model − the reference, {study['seeds']} seeds; as good: {as_good}",
        ("metric", "reference", "lean", "difference (95 %)", "margin"),
    )
    for metric, margin in (("auc", -AUC_MARGIN), ("logloss", LOGLOSS_MARGIN)):
        found = study[metric]
        low, high = found["ci95"] or (float("nan"), float("nan"))
        difference = f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        made.add_row(metric, f"{found['reference']:.4f}", f"{found['lean']:.4f}", difference, f"{margin:+.3f}")
    made.add_row("auc of the clicks' law", f"{study['law_auc']:.4f}", "", "", "")
    return made


def picture(figures: Figures) -> str:
    """Draw the reference model's times against candidates, on log axes: tiled, factorised, in the fastest precision,
    and its matrix products alone."""
    times, fastest = figures["microseconds"]["reference"], figures["fastest"]
    lines = {"tiled, fp32": TILED, "factorised, fp32": PASSED, f"factorised, {fastest}": fastest}
    if fastest == PASSED:
        lines.popitem()
    lines["its matrix products alone, fp32"] = PRODUCTS
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for label, contestant in lines.items():
        counts = [int(count) for count in times[contestant]]
        milliseconds = [taken / 1e3 for taken in times[contestant].values()]
        axes.plot(counts, milliseconds, "--" if contestant == PRODUCTS else "-", marker="o", ms=3, label=label)
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
