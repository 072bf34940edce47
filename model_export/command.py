"""`msd export`: a trained ranker, its student and its dataset in, a proved bundle out."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model_export.export import export_bundle, load_inputs
from msd.contract.bundle import open_bundle
from msd.contract.precision import PrecisionRecord

app = typer.Typer(add_completion=False)


class AskedName(StrEnum):
    """The precisions that can be asked for, as the command line names them."""

    FP32 = "fp32"
    INT8 = "int8"
    BF16 = "bf16"
    AUTO = "auto"


@app.command("export")
def export(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    knowledge: Annotated[Path, typer.Argument(metavar="KNOWLEDGE", help="The folder that `msd teach` wrote.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="The folder that `msd distill` wrote.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder that `msd train` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The bundle's folder.")],
    evaluation: Annotated[Path | None, typer.Option(help="What `msd evaluate` wrote, for the manifest.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Also write the proved requests, for `msd replay`.")] = None,
    precision: Annotated[
        AskedName, typer.Option(help="int8 and bf16 have to score as fp32 does; auto is the fastest that does.")
    ] = AskedName.FP32,
    candidates: Annotated[
        int, typer.Option(min=1, help="How many a request has, when graphs and precisions are timed.")
    ] = 200,
    explain: Annotated[
        Path | None, typer.Option(help="Also write what was split of the graph, what was not and why, as JSON.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many test rows to prove the graph on.")] = 2_400,
) -> None:
    """Exports the graphs and rows, proves them equal to torch on test rows, and writes the bundle."""
    start, console = time.perf_counter(), Console()
    inputs = load_inputs(dataset, knowledge, student, model, evaluation)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("Exporting", total=requests)

        def advance(doing: str, done: int) -> None:
            bars.update(bar, description=doing, completed=done, total=max(requests, done))

        fresh = export_bundle(inputs, out, replay, requests, advance, precision.value, candidates, explain)
        bars.update(bar, total=bars.tasks[bar].completed)
    bundle = open_bundle(out)
    tolerance = bundle.manifest.provenance["parity"]
    console.print(
        f"{out}: bundle {bundle.bundle_id}, {'written' if fresh else 'done before'}; onnxruntime and torch differ by "
        f"{tolerance['max_abs_diff']:.1e} at most over {tolerance['requests']} requests "
        f"({time.perf_counter() - start:.1f} s)",
        highlight=False,
    )
    console.print(_told(bundle.manifest.provenance["graph"]), highlight=False)
    if bundle.precision.tried:
        console.print(_table(bundle.precision))


def _told(graph: dict[str, Any]) -> str:
    plain, passed = (graph["microseconds"][name] for name in ("plain", "passed"))
    return (
        f"the graph runs {graph['candidates']} candidates in {passed:.0f} µs with shared work done once, in "
        f"{plain:.0f} µs without ({plain / passed:.2f} ×); the {graph['served']} one is served"
    )


def _table(precision: PrecisionRecord) -> Table:
    table = Table(
        title=f"{precision.chosen} chosen; {precision.valid_rows} valid rows, {precision.candidates} candidates"
    )
    for heading in ("precision", "µs a run", "AUC", "logloss", "ECE", "predicted/observed", "refused because"):
        table.add_column(heading)
    for name, one in precision.tried.items():
        figures = one.figures
        cells = ["-"] * 5
        if figures:
            cells = [
                f"{figures.microseconds:.0f}",
                f"{figures.auc:.5f}",
                f"{figures.logloss:.5f}",
                f"{figures.ece:.4f}",
            ]
            cells.append(f"{figures.predicted_over_observed:.4f}")
        table.add_row(name, *cells, one.refused or "")
    return table
