"""A benchmark's figures as a page that needs no network: every model's AUC, and the gain of ours over each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from msd.contract.files import write_text_atomic
from msd.page import render_page, to_svg

_COLOURS = {"ours": "#0b6e4f", "baseline": "#6b7280", "ablation": "#3b5bdb"}


def tables(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of each table by its title: two tables if there are two kinds of new items."""
    name = figures["benchmark"]
    if "untaught" not in figures:
        return {f"{name}: test": figures}
    return {
        f"{name}: test, items of which the teacher wrote beforehand": figures,
        f"{name}: test, items of which there is text alone": figures["untaught"],
    }


def write_report(path: Path, figures: Mapping[str, Any]) -> None:
    """Draw and write the page of a benchmark's JSON."""
    drawn = [(title, one, _draw(one)) for title, one in tables(figures).items()]
    write_text_atomic(path, render_page("lab.benchmark", "report.html.j2", figures=figures, drawn=drawn))


def _draw(figures: Mapping[str, Any]) -> str:
    ours = {"auc": figures["auc_mean"], "auc_std": figures["auc_std"]}
    lines = [(figures["model"], "ours", ours)]
    lines += [(name, "baseline", entry) for name, entry in figures["baselines"].items()]
    lines += [(name, "ablation", entry) for name, entry in figures["ablations"].items()]
    figure = Figure(figsize=(9.0, 0.6 + 0.32 * len(lines)), layout="constrained")
    aucs, gains = figure.subplots(1, 2, sharey=True)
    for place, (_, role, entry) in enumerate(reversed(lines)):
        colour = _COLOURS[role]
        aucs.errorbar(entry["auc"], place, xerr=entry["auc_std"] or 0.0, fmt="o", color=colour, capsize=3)
        if (gain := entry.get("gain")) is not None:
            gains.barh(place, gain, color=colour, alpha=0.5, height=0.6)
            if entry["gain_ci95"]:
                gains.plot(entry["gain_ci95"], [place, place], color=colour, linewidth=2)
    gains.axvline(0.0, color="#9ca3af", linewidth=1)
    aucs.set_yticks(range(len(lines)), [name for name, _, _ in reversed(lines)])
    aucs.set(xlabel="AUC")
    gains.set(xlabel=f"gain of {figures['model']} in AUC")
    return to_svg(figure)
