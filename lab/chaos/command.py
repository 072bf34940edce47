"""`msd lab chaos`: starts a service, breaks it in many ways, and reports the results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from msd.contract.errors import MsdError
from msd.report import Heard, bar, show, table, write_figures

if TYPE_CHECKING:
    from lab.chaos.scenario import Scenario

app = typer.Typer(add_completion=False)


@app.command("chaos")
def main(
    out: Annotated[Path, typer.Option(help="A folder for chaos.json, chaos.html and logs.")] = Path("runs/chaos"),
    only: Annotated[str, typer.Option(help="Scenarios by name, comma-separated; the others' results are kept.")] = "",
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle to serve. Default: a reference model, trained if needed.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="With --bundle: one with other weights for the same users and items.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A benchmark's data, for the scenario of live counts.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for the reference model, reused.")] = Path("runs/bench"),
) -> None:
    """Breaks things for real. Exit status 1 if anything does not hold that has nothing to do with durations."""
    from lab.chaos.chaos import run_chaos
    from lab.chaos.environment import Environment
    from lab.chaos.page import chaos_page
    from lab.chaos.plan import ChaosPlan

    chosen = _chosen(only)
    with bar() as heard:
        served, second = _reference(work, heard) if bundle is None else (bundle, other)
        environment = Environment(
            bundle=served.absolute(),
            work=out.absolute(),
            plan=ChaosPlan(),
            heard=heard,
            other=second and second.absolute(),
            data=data and data.absolute(),
            kept=work.absolute(),
        )
        summary = run_chaos(environment, chosen)
    show([_table(summary)])
    write_figures(out / "chaos.json", summary, {".html": chaos_page(summary, environment)})
    if summary["broken"]:
        raise typer.Exit(1)


def _chosen(only: str) -> "Sequence[type[Scenario]]":
    from lab.chaos.scenarios import SCENARIOS

    known = {scenario.name: scenario for scenario in SCENARIOS}
    names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    for name in names:
        if name not in known:
            raise MsdError(f"--only {name}: no such scenario; there are: {', '.join(known)}")
    return [known[name] for name in names]


def _reference(work: Path, heard: Heard) -> tuple[Path, Path]:
    """Return the reference model in the best precision and in fp32, whose scores differ slightly."""
    from lab.reference.bundles import Makings, made_bundles

    bundles = made_bundles(work / "bundles", Makings(), heard)
    return bundles.best, bundles.fp32


def _table(summary: dict[str, Any]) -> Table:
    made = table(None, ("scenario", "", "what had to hold"), texts=3)
    for name, one in summary["scenarios"].items():
        if one["reason"]:
            made.add_row(name, "–", Text(one["reason"]))
        for check in one["checks"]:
            held = "yes" if check["holds"] else "no, in time" if check["is_timed"] else "NO"
            stolen = one["stolen_share"] if held == "no, in time" else None
            told = f" ({stolen:.0%} of the cores' time stolen)" if stolen else ""
            made.add_row(name, held, Text(check["what"] + told))
    return made
