"""The lines of docs/leaderboard.md, from the kept results of benchmarks: models by AUC, for each delay of feedback."""

import json
from collections.abc import Mapping
from typing import Any

from tests.docs.pages import ROOT

RESULTS = ROOT / "lab" / "benchmark" / "results"
_VIEWS = {
    "live_0_s": "feedback at once",
    "live_600_s": "feedback ten minutes late",
    "live_86400_s": "feedback a day late",
    "frozen": "counts frozen, histories live",
    "closed": "counts and histories frozen",
    "taught": "the teacher has written about the new items",
    "untaught": "text alone is known of the new items",
}
_COLUMNS = {"uauc": "UAUC", "request_auc": "`request_auc`", "logloss": "logloss", "ece": "ECE"}


def leaderboard_lines() -> list[str]:
    """Return a table for each view of each file, with command and commit if the file has them."""
    lines = []
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        lines += ["", f"## {found['benchmark']}: `{path.name}`", "", _run(found)]
        for view, figures in found["views"].items():
            ours, ranked = figures["model"], sorted(figures["lines"].items(), key=lambda line: -line[1]["auc"])
            columns = [column for column in _COLUMNS if any(line.get(column) is not None for _, line in ranked)]
            cells = ["model", "AUC", *(_COLUMNS[column] for column in columns), f"gain of `{ours}`"]
            seeds = ", ".join(sorted({str(line["seeds"]) for _, line in ranked}))
            lines += ["", f"### {_VIEWS[view].capitalize()}", "", f"{seeds} seeds.", ""]
            lines += [f"| {' | '.join(cells)} |", f"|{'---|' * len(cells)}"]
            lines += [_row(name, line, columns, is_ours=name == ours) for name, line in ranked]
    return lines[1:]


def written(value: float | None, sign: str = "") -> str:
    """Return a figure with four digits, as pages write it."""
    return "–" if value is None else f"{value:{sign}.4f}".replace("0.", ".", 1).replace("-", "−")


def gain(found: Mapping[str, Any]) -> str:
    """Return a gain with its 95 % interval."""
    low, high = (written(end, "+") for end in found["ci95"])
    return f"{written(found['gain'], '+')} ({low}, {high})"


def _run(found: Mapping[str, Any]) -> str:
    protocol, rows = found["protocol"], sorted(set(found["protocol"]["rows"].values()))
    counts = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    made = f" Commit: `{found['commit']}`." if "commit" in found else ""
    return (
        f"Protocol `{protocol['sha256'][:12]}`; {counts} {found['part']} rows a seed; {found['machine']['cpu']}.{made}"
    )


def _row(name: str, line: Mapping[str, Any], columns: list[str], is_ours: bool) -> str:
    auc = f"{written(line['auc'])} ± {written(line['auc_std'])}"
    figures = [written(line.get(column)) for column in columns]
    cells = [f"`{name}`", auc, *figures, "–" if is_ours else gain(line["gains"]["auc"])]
    return f"| {' | '.join(cells)} |"
