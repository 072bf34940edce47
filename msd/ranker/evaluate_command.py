"""`msd evaluate`: models and the counts baseline on the test rows, once, side by side."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.load import load_dataset
from msd.ranker.evaluate import evaluate_models
from msd.ranker.folder import RECORD_FILE, WEIGHTS_FILE, ModelError, load_ranker
from msd.step import fingerprint_of, is_done, mark_done
from msd.student.vectors import load_vectors

app = typer.Typer(add_completion=False)
RESULT_FILE = "evaluation.json"
_FORMAT = 1


@app.command("evaluate")
def evaluate(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="The folder that `msd distill` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the figures.")],
    model: Annotated[list[Path], typer.Option(help="A trained model's folder; may be given several times.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the baseline's trees.")] = 0,
) -> None:
    """Measures each model, and trees on counts, on the test rows; writes evaluation.json and prints a table."""
    start, console = time.perf_counter(), Console()
    data, vectors = load_dataset(dataset), load_vectors(student)
    names = _names(model)
    weights = [sha256_file(folder / file) for folder in model for file in (WEIGHTS_FILE, RECORD_FILE)]
    run = fingerprint_of(_FORMAT, data.fingerprint, vectors.student, names, weights, seed)
    if (known := _known_results(out, run)) is not None:
        console.print(f"{out}: done before, nothing to do", highlight=False)
        _print(console, known)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("Measuring", total=len(names) + 1)

        def advance(doing: str, done: int) -> None:
            bars.update(bar, description=doing, completed=done)

        results = evaluate_models(data, vectors, dict(zip(names, model, strict=True)), seed, advance)
    write_text_atomic(out / RESULT_FILE, json.dumps(results, indent=2) + "\n")
    mark_done(out, run, time.perf_counter() - start)
    _print(console, results)


def _known_results(out: Path, run: str) -> dict[str, Any] | None:
    """What an earlier run with the same inputs found, if it is still there."""
    if out.is_file():
        raise ModelError(f"{out} is a file; name a folder for the figures")
    if not is_done(out, run):
        return None
    try:
        known: dict[str, Any] = json.loads((out / RESULT_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return known


def _names(folders: list[Path]) -> list[str]:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names) or "counts" in names:
        raise ModelError("models are told apart by their folders' names, which must differ and not be 'counts'")
    for folder in folders:
        load_ranker(folder)
    return names


def _print(console: Console, results: dict[str, Any]) -> None:
    table = Table(title=f"{results['rows']['test']} test rows", title_justify="left")
    metrics = list(next(iter(results["models"].values()))["metrics"])
    for column in ("model", *metrics):
        table.add_column(column.replace("_", " "), justify="left" if column == "model" else "right")
    for name, figures in results["models"].items():
        table.add_row(name, *(_shown(figures["metrics"][metric]) for metric in metrics))
    console.print(table)


def _shown(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"
