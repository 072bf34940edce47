"""A benchmark's figures as a page that needs no network: every model's AUC, and what ours gains over each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from msd.contract.files import write_text_atomic
from msd.drawing import to_svg

_COLOURS = {"ours": "#0b6e4f", "baseline": "#6b7280", "ablation": "#3b5bdb"}
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{{ figures.benchmark }}</title>
<style>body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }</style>
<h1>{{ figures.benchmark }}</h1>
<p>{{ figures.protocol.split }}. Protocol {{ figures.protocol.sha256[:12] }}.</p>
{% for title, one, drawing in drawn %}
<h2>{{ title }}</h2>
<p>AUC {{ "%.4f"|format(one.auc_mean) }} over {{ figures.protocol.seeds[one.model]|length }} seeds;
gain of semantics {{ "%+.4f"|format(one.gain_auc) }}
{%- if one.gain_auc_ci95 %} (95 %: {{ "%+.4f to %+.4f"|format(*one.gain_auc_ci95) }}){% endif %}.
Left: AUC on test, with the deviation over seeds. Right: what {{ one.model }} gains over each, with its 95 % interval
({{ one.gain_test }}). Green is {{ one.model }}, grey a baseline, blue an ablation.</p>
{{ drawing }}
{% endfor %}
"""


def tables(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of each table, by its title: two where new items are of two kinds."""
    name = figures["benchmark"]
    if "untaught" not in figures:
        return {f"{name}: test": figures}
    return {
        f"{name}: test, items of which the teacher wrote beforehand": figures,
        f"{name}: test, items of which there is text alone": figures["untaught"],
    }


def write_report(path: Path, figures: Mapping[str, Any]) -> None:
    """Draws and writes the page of a benchmark's JSON."""
    environment = jinja2.Environment(autoescape=True)
    # The drawing holds nothing but names of models and figures of ours.
    drawn = [(title, one, Markup(_draw(one))) for title, one in tables(figures).items()]
    write_text_atomic(path, environment.from_string(_PAGE).render(figures=figures, drawn=drawn))


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
