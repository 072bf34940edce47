"""`msd export`: a trained ranker, its student and its dataset in, a proved bundle out."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from model_export.export import export_bundle, load_inputs
from msd.contract.bundle import open_bundle

app = typer.Typer(add_completion=False)


@app.command("export")
def export(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    knowledge: Annotated[Path, typer.Argument(metavar="KNOWLEDGE", help="The folder that `msd teach` wrote.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="The folder that `msd distill` wrote.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder that `msd train` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The bundle's folder.")],
    evaluation: Annotated[Path | None, typer.Option(help="What `msd evaluate` wrote, for the manifest.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Also write the proved requests, for `msd replay`.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many test rows to prove the graph on.")] = 2_400,
) -> None:
    """Exports the graphs and rows, proves them equal to torch on test rows, and writes the bundle."""
    start, console = time.perf_counter(), Console()
    inputs = load_inputs(dataset, knowledge, student, model, evaluation)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("Exporting", total=requests)

        def advance(doing: str, done: int) -> None:
            bars.update(bar, description=doing, completed=done)

        fresh = export_bundle(inputs, out, replay, requests, advance)
        bars.update(bar, total=bars.tasks[bar].completed)
    bundle = open_bundle(out)
    tolerance = bundle.manifest.provenance["parity"]
    console.print(
        f"{out}: bundle {bundle.bundle_id}, {'written' if fresh else 'done before'}; onnxruntime and torch differ by "
        f"{tolerance['max_abs_diff']:.1e} at most over {tolerance['requests']} requests "
        f"({time.perf_counter() - start:.1f} s)",
        highlight=False,
    )
