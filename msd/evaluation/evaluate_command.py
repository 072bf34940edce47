"""`msd evaluate`: measure models and baselines once, on the same test rows."""

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from msd.contract.encoder_record import ColdAds
from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.load import load_dataset
from msd.evaluation.evaluate import OTHER_WORK, evaluate_models
from msd.evaluation.evaluation_report import say_rate, write_report
from msd.evaluation.verdict import BASELINES, TEXT_BASELINES, say_semantics, say_verdict
from msd.evaluation.within import CHANCE, METRICS
from msd.metrics import FEWEST_USERS
from msd.report import bar, table
from msd.step import fingerprint_of, is_done, mark_done
from msd.student.vectors import load_vectors, no_vectors
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, ModelFolderError, load_ranker

app = typer.Typer(add_completion=False)
RESULT_FILE, REPORT_FILE = "evaluation.json", "report.html"
_FORMAT = 8
_RESERVED = (*BASELINES, *TEXT_BASELINES, CHANCE)


@app.command("evaluate")
def evaluate(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATASET [STUDENT] OUT",
            help="The dataset's folder, that of `msd distill` if the models had a student, and that of the figures.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FOLDER",
            help="A trained model, repeatable. Folders of one NAME are the seeds of one model.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of baseline and resampling.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 1_000,
    texts: Annotated[bool, typer.Option("--texts", help="Measure regressions on the items' texts alone, too.")] = False,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Compare with another model's scores, such as your present one's, repeatable: a table with user_id, "
            "item_id, at and score, a click probability, of each test row.",
        ),
    ] = None,
) -> None:
    """Measure each model, a regression, and trees on counts, on the test rows; write evaluation.json and report.html.

    Bundles are judged on a log: msd evaluate LOG… --bundle old=DIR --bundle new=DIR (add --help).
    """
    if not model or not folders or not 2 <= len(folders) <= 3:
        raise ModelFolderError("DATASET OUT, or DATASET STUDENT OUT, and at least one --model are needed")
    dataset, student, out = folders[0], folders[1] if len(folders) > 2 else None, folders[-1]
    start, console = time.perf_counter(), Console()
    data, vectors = load_dataset(dataset), load_vectors(student) if student else no_vectors()
    models = _models(model)
    rivals = _rivals(scores or [], models)
    weights = {
        name: [sha256_file(folder / file) for folder in folders for file in (WEIGHTS_FILE, RECORD_FILE)]
        for name, folders in models.items()
    }
    compared = {name: sha256_file(file) for name, file in rivals.items() if file.is_file()}
    run = fingerprint_of(
        _FORMAT, data.fingerprint, vectors.student, list(models), weights, seed, resamples, texts, compared
    )
    if (known := _known_results(out, run)) is not None:
        console.print(f"{out}: done before, nothing to do", highlight=False)
        _print(console, known)
        return
    with bar(console) as heard:
        advance = partial(heard, total=sum(map(len, models.values())) + OTHER_WORK)
        results = evaluate_models(data, vectors, models, seed, resamples, advance, student, texts, rivals)
    write_text_atomic(out / RESULT_FILE, json.dumps(results, indent=2) + "\n")
    write_report(out / REPORT_FILE, results)
    mark_done(out, run, time.perf_counter() - start)
    _print(console, results)
    console.print(f"{out / REPORT_FILE} shows curves, slices and intervals", highlight=False)


def _known_results(out: Path, run: str) -> dict[str, Any] | None:
    """Return the results of an earlier run with the same inputs; None if missing. Raises ModelFolderError if `out` is a
    file."""
    if out.is_file():
        raise ModelFolderError(f"{out} is a file; name a folder for the figures")
    if not is_done(out, run) or not (out / REPORT_FILE).is_file():
        return None
    try:
        known: dict[str, Any] = json.loads((out / RESULT_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return known


def _models(given: list[str]) -> dict[str, list[Path]]:
    """Return folders by name: that of NAME=FOLDER, or the folder's own, which must then be unique."""
    models: dict[str, list[Path]] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not name or Path(one).is_dir():
            name, equals, folder = Path(one).name, "", one
        if name in _RESERVED or (name in models and not equals):
            raise ModelFolderError(
                f"models are told apart by their names, which must differ and not be {', '.join(_RESERVED)}; "
                f"{one} is another {name!r}; give NAME=FOLDER"
            )
        models.setdefault(name, []).append(Path(folder))
    for folders in models.values():
        for found in folders:
            load_ranker(found)
    return models


def _rivals(given: list[str], models: Mapping[str, list[Path]]) -> dict[str, Path]:
    """Return files of scores by name: that of NAME=FILE, or the file's own without its suffix."""
    rivals: dict[str, Path] = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not equals or not name or Path(one).exists():
            name, file = Path(one).stem, one
        if name in _RESERVED or name in models or name in rivals:
            raise ModelFolderError(f"{one}: {name!r} is the name of another model; give NAME=FILE")
        rivals[name] = Path(file)
    return rivals


def _print(console: Console, results: dict[str, Any]) -> None:
    metrics = list(next(iter(results["models"].values()))["metrics"])
    made = table(f"{results['rows']['test']} test rows", ("model", *(metric.replace("_", " ") for metric in metrics)))
    for name, figures in results["models"].items():
        made.add_row(escape(name), *(_shown(figures["metrics"][metric]) for metric in metrics))
    console.print(made)
    gauc = {figures["metrics"].get("gauc") for figures in results["models"].values()}
    if gauc <= {0.5, None}:
        console.print(
            f"GAUC says nothing here: fewer than {FEWEST_USERS} users of the test part have both a click and another "
            "thing without one",
            highlight=False,
        )
    for one in results["differences"]:
        if "curve" not in results["models"][one["model"]]:
            continue
        auc = one["auc"]
        ends = "" if auc["users"]["ci95"] is None else " (95 %: {:+.4f} to {:+.4f})".format(*auc["users"]["ci95"])
        line = f"AUC of {one['model']} less that of {one['minus']}: {auc['difference']:+.4f}{ends}"
        console.print(line, highlight=False, markup=False)
    console.print(f"intervals: paired bootstrap over users, {results['resamples']} resamples", highlight=False)
    for name, figures in results["models"].items():
        lines = [f": {ColdAds.model_validate(one)}" for one in figures.get("cold_ads", [])]
        lines += [f", {say_rate(of, found)}" for of, found in (figures.get("conversions") or {}).items()]
        lines += [f", chosen by valid: {said}" for said in figures.get("choice", [])]
        for line in lines:
            console.print(f"{name}{line}", highlight=False, markup=False)
    if within := results["within"]:
        console.print(_within_table(within))
    if verdict := results["verdict"]:
        console.print(say_semantics(verdict), highlight=False, markup=False)
    console.print(say_verdict(results), highlight=False, markup=False)


def _within_table(within: dict[str, Any]) -> Table:
    """Return the metrics within groups, one row per model."""
    title = f"{within['groups']} users (or tests) of the test part, {within['pairs']} pairs of what one of them saw"
    made = table(title, ("model", *(metric.replace("_", " ") for metric in METRICS)))
    for name, figures in within["models"].items():
        cells = []
        for metric in METRICS:
            ends = figures[metric]["ci95"]
            cells.append(_shown(figures[metric]["value"]) + (" ({:.4f} to {:.4f})".format(*ends) if ends else ""))
        made.add_row(escape(name), *cells)
    return made


def _shown(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"
