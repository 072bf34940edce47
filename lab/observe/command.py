"""`msd lab observe`: runs a service and Prometheus under load, and reports what each panel and rule returns."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from lab.observe.live import RULES, SECONDS, watched
from lab.observe.panels import MAY_BE_EMPTY, Panel, read_panels
from msd.report import table

app = typer.Typer(add_completion=False)


@app.command("observe")
def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to serve.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another bundle for the same users and items.")],
    out: Annotated[Path, typer.Option(help="Folder for logs and Prometheus's data.")] = Path("runs/observe"),
    seconds: Annotated[float, typer.Option(min=30.0, help="Duration of the load.")] = SECONDS,
) -> None:
    """Exit status 1 if a panel or a recording rule shows nothing, or a rule cannot be evaluated."""
    panels = read_panels()
    with watched(bundle, other, RULES, out.absolute(), seconds) as run:
        rules = run.prometheus.rules()
        recorded = [
            Panel("recording rules", rule["name"], ((rule["name"], ""),))
            for rule in rules
            if rule["type"] == "recording"
        ]
        alerts = Panel("", "", (("ALERTS", "{{alertname}} {{alertstate}}"),)).curves(run.prometheus, run.start, run.end)
        shown = {panel: panel.curves(run.prometheus, run.start, run.end) for panel in panels + recorded}
    rows, wrong = table(None, ("dashboard", "panel or rule", "series", "points"), texts=2), list[str]()
    for panel, curves in shown.items():
        rows.add_row(panel.board, Text(panel.title), str(len(curves)), str(sum(len(curve.points) for curve in curves)))
        if not curves and panel.title not in MAY_BE_EMPTY:
            wrong.append(f"no data: {panel.board}: {panel.title}")
    wrong += [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    console, errors = Console(), Console(stderr=True, soft_wrap=True)
    console.print(rows)
    seen = ", ".join(sorted({series.legend for series in alerts})) or "none"
    console.print(f"{sum(map(bool, shown.values()))} of {len(shown)} show data; alerts: {seen}")
    for line in wrong:
        errors.print(Text(line, style="bold red"))
    if wrong:
        raise typer.Exit(1)
