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

TILED, PLAIN, PASSED, TWIN = "tiled", "plain", "passed", "twin"
PRODUCTS, FP32 = "products_", "fp32"
WITHOUT_RULE = "without_rule"
SHOWN = (200, 1_000)
_PRECISIONS = (PASSED, "int8", "bf16")


def summarised(turns: Mapping[str, Times], blocks: Mapping[str, Times]) -> dict[str, Any]:
    """Return figures from median times by race, ready for JSON; ratios are of times in turns."""
    models = {name: times for name, times in turns.items() if name != WITHOUT_RULE}
    reference, without_rule = blocks["reference"], turns[WITHOUT_RULE]
    return {
        # A service that runs one model is nearer to the block.
        "fastest": min((name for name in _PRECISIONS if name in reference), key=lambda name: reference[name][SHOWN[0]]),
        "tiled_ratios": {
            model: {name: ratio(times, TILED, name) for name in times if name != TILED}
            for model, times in models.items()
            if TILED in times
        },
        "pass_ratios": {model: ratio(times, PLAIN, PASSED) for model, times in models.items()},
        "rule_ratios": {name: ratio(without_rule, name, PASSED) for name in without_rule if name != PASSED},
        "microseconds": {name: _rounded(times) for name, times in turns.items()},
        "microseconds_in_blocks": {name: _rounded(times) for name, times in blocks.items()},
    }


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
    """Return how many times `fast` runs in the time of `slow`, by number of candidates."""
    return {str(count): round(times[slow][count] / taken, 4) for count, taken in times[fast].items()}


def _rounded(times: Times) -> dict[str, dict[str, float]]:
    return {name: {str(count): round(one, 1) for count, one in taken.items()} for name, taken in times.items()}


def tables(figures: Figures) -> Iterator[Table]:
    """Yield times of the reference and of the leaner model, ratios of all models and rules, and the study, if any."""
    for model in figures["tiled_ratios"]:
        yield _times(figures, model)
    yield _ratios("Plain ÷ factorised", "model", figures["pass_ratios"])
    yield _ratios("Without a rule ÷ with all", "rule", figures["rule_ratios"])
    if figures["not_possible"]:
        made = table("Not possible here", ("graph", "why"), texts=2)
        for name, reason in figures["not_possible"].items():
            made.add_row(name, reason)
        yield made
    if figures["study"]:
        yield _study(figures["study"])


def _times(figures: Figures, model: str) -> Table:
    turns, blocks = figures["microseconds"][model], figures["microseconds_in_blocks"][model]
    counts = list(turns[PLAIN])
    columns = (f"N = {count}\n{form}" for count in counts for form in ("block", "turns", "tiled ÷"))
    made = table(f"The {model} model, µs a run, in a block of its own and in turns", ["graph", *columns])
    for name in turns:
        ratios = figures["tiled_ratios"][model].get(name, {})
        cells = (
            cell
            for count in counts
            for cell in (
                f"{blocks[name][count]:,.0f}",
                f"{turns[name][count]:,.0f}",
                f"{ratios[count]:.2f}" if count in ratios else "",
            )
        )
        made.add_row(name, *cells, style="bold" if name == figures["fastest"] else None)
    return made


def _ratios(title: str, subject: str, ratios: Mapping[str, Mapping[str, float]]) -> Table:
    made = table(title, [subject, *(f"N = {count}" for count in next(iter(ratios.values())))])
    for name, by_count in ratios.items():
        made.add_row(name, *(f"{one:.2f}" for one in by_count.values()))
    return made


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
    """Draw the reference model's times in blocks against candidates, on log axes: tiled, factorised, in the fastest
    precision, and its matrix products alone."""
    times, fastest = figures["microseconds_in_blocks"]["reference"], figures["fastest"]
    lines = {"tiled, fp32": TILED, "factorised, fp32": PASSED, f"factorised, {fastest}": fastest}
    if fastest == PASSED:
        lines.popitem()
    products = PRODUCTS + ("int8" if fastest == "int8" else FP32)
    lines[f"its matrix products alone, {products.removeprefix(PRODUCTS)}"] = products
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for label, contestant in lines.items():
        counts = [int(count) for count in times[contestant]]
        milliseconds = [taken / 1e3 for taken in times[contestant].values()]
        axes.plot(counts, milliseconds, "--" if contestant == products else "-", marker="o", ms=3, label=label)
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
