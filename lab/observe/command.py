"""`msd lab observe`: runs a service and Prometheus under load, and reports what each panel and rule returns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from lab.observe.found import Shown, alerts_seen, panels_shown, rules_shown, sick_rules
from lab.observe.live import ObservePlan, watched
from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from msd.dashboards.boards import BOARDS
from msd.report import table

_RULES = Path("helm/msd-ctr/files/rules.yaml")

app = typer.Typer(add_completion=False)


@app.command("observe")
def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to serve.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another bundle for the same users and items.")],
    rules: Annotated[Path, typer.Option(help="Rules for Prometheus.")] = _RULES,
    out: Annotated[Path, typer.Option(help="Folder for logs and Prometheus's data.")] = Path("runs/observe"),
    pictures: Annotated[Path | None, typer.Option(help="Folder for the pictures. Default: --out.")] = None,
    seconds: Annotated[float, typer.Option(min=30.0, help="Duration of the load.")] = ObservePlan.seconds,
) -> None:
    """Exit status 1 if a panel or a recording rule shows nothing, or a rule cannot be evaluated."""
    if not rules.exists():
        raise MsdError(f"{rules}: no such file; run it in the checkout, or pass --rules")
    from lab.observe.pictures import picture

    with watched(bundle, other, rules, out.absolute(), ObservePlan(seconds=seconds)) as run:
        boards = {board.name: panels_shown(board, run) for board in BOARDS}
        recorded, sick, alerts = rules_shown(run), sick_rules(run), alerts_seen(run)
    for board in BOARDS:
        write_bytes_atomic((pictures or out) / f"dashboard-{board.name}.png", picture(board, boards[board.name], run))
    shown = [one for found in boards.values() for one in found] + recorded
    _tell(shown, alerts, sick)
    empty = [f"{one.where}: {one.title}" for one in shown if one.is_wrongly_empty]
    for wrong in (*(f"no data: {one}" for one in empty), *sick):
        Console(stderr=True, soft_wrap=True).print(Text(wrong, style="bold red"))
    if empty or sick:
        raise typer.Exit(1)


def _tell(shown: Sequence[Shown], alerts: Sequence[str], sick: Sequence[str]) -> None:
    console = Console()
    found = table(None, ("dashboard", "panel or rule", "series", "points", "highest"), texts=2)
    for one in shown:
        found.add_row(one.where, Text(one.title), str(len(one.curves)), str(one.points), f"{one.highest:.4g}")
    console.print(found)
    for one in shown:
        if not one.points and one.panel and one.panel.may_be_empty:
            console.print(Text(f"shows nothing, as it may: {one.title}: {one.panel.may_be_empty}"))
    full = sum(bool(one.points) for one in shown)
    console.print(
        f"{full} of {len(shown)} show something; {len(sick)} rules fail; alerts: {', '.join(alerts) or 'none'}"
    )
