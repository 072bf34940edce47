"""`msd evaluate`: models and the counts baseline on the test rows, once, side by side."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.ranker.baseline import counts_baseline
from msd.ranker.features import build_features
from msd.ranker.folder import RECORD_FILE, WEIGHTS_FILE, ModelError, load_ranker
from msd.ranker.metrics import Labels, Probabilities, calibration, measure
from msd.ranker.train import predict
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
    results: dict[str, Any] = {"rows": {}, "models": {}}
    with console.status("Measuring") as status:
        for name, folder in zip(names, model, strict=True):
            status.update(f"Measuring {name}")
            trained, record = load_ranker(folder)
            if record.dataset != data.fingerprint or record.student != vectors.student:
                raise ModelError(f"{folder}: was trained on another dataset or student than {dataset} and {student}")
            features = build_features(data, trained.schema, vectors)
            test = features.of_part(Part.TEST)
            labels = features.labels.numpy()[test].astype(np.float64)
            users = features.user.rows.numpy()[test].astype(np.int64)
            results["models"][name] = _figures(labels, predict(trained, features, test), users)
            results["models"][name]["curve"] = [point._asdict() for point in record.curve]
        status.update("Growing the baseline's trees")
        results["models"]["counts"] = _figures(labels, counts_baseline(features, test, seed), users)
    results["rows"] = {part.name.lower(): len(features.of_part(part)) for part in Part}
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


def _figures(
    labels: Labels, probabilities: Probabilities, users: np.ndarray[Any, np.dtype[np.int64]]
) -> dict[str, Any]:
    return {
        "metrics": measure(labels, probabilities, users),
        "calibration": [one._asdict() for one in calibration(labels, probabilities)],
    }


def _print(console: Console, results: dict[str, Any]) -> None:
    table = Table(title=f"{results['rows']['test']} test rows", title_justify="left")
    metrics = list(next(iter(results["models"].values()))["metrics"])
    for column in ("model", *metrics):
        table.add_column(column.replace("_", " "), justify="left" if column == "model" else "right")
    for name, figures in results["models"].items():
        table.add_row(name, *(f"{figures['metrics'][metric]:.4f}" for metric in metrics))
    console.print(table)
