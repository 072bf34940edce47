"""`msd chaos`: breaks a service that it starts itself, in many ways, and tells what came of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.bars import Heard, bar
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic

if TYPE_CHECKING:
    from loadtest.chaos.scenario import Scenario

_NEEDED = "pip install -e '.[train,cpu,openvino,demo,dev]'"

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
    try:
        from loadtest.chaos.chaos import run_chaos
        from loadtest.chaos.environment import Environment
        from loadtest.chaos.page import write_page
        from loadtest.chaos.plan import ChaosPlan
    except ModuleNotFoundError as error:
        raise MsdError(f"`msd chaos` needs the module {error.name!r}; in the checkout: {_NEEDED}") from error
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
    write_text_atomic(out / "chaos.json", json.dumps(summary, indent=2) + "\n")
    write_page(out / "chaos.html", summary, environment)
    _tell(summary, out)
    if summary["broken"]:
        raise typer.Exit(1)


def _chosen(only: str) -> "Sequence[Scenario]":
    from loadtest.chaos.scenarios import SCENARIOS

    known = {scenario.name: scenario for scenario in SCENARIOS}
    names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    for name in names:
        if name not in known:
            raise MsdError(f"--only {name}: no such scenario; there are: {', '.join(known)}")
    return [known[name] for name in names]


def _reference(work: Path, heard: Heard) -> tuple[Path, Path]:
    """The same model in the best precision and in fp32, whose scores differ a little."""
    from loadtest.bench.bundles import Makings, made_bundles

    bundles = made_bundles(work / "bundles", Makings(), heard)
    return bundles.best, bundles.fp32


def _tell(summary: dict[str, Any], out: Path) -> None:
    console = Console()
    table = Table(box=None, header_style="bold")
    for name in ("scenario", "", "what had to hold"):
        table.add_column(name)
    for name, one in summary["scenarios"].items():
        if one["reason"]:
            table.add_row(name, "–", Text(one["reason"]))
        for check in one["checks"]:
            held = "yes" if check["holds"] else "no, in time" if check["is_timed"] else "NO"
            stolen = (
                f" ({one['stolen_share']:.0%} of the cores' time stolen)"
                if held == "no, in time" and one["stolen_share"]
                else ""
            )
            table.add_row(name, held, Text(check["what"] + stolen))
    console.print(table)
    console.print(f"written: {out / 'chaos.json'}, {out / 'chaos.html'}", highlight=False, soft_wrap=True)
