"""`msd lean`: train the lean ranker beside a trained one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from msd.dataset.load import load_dataset
from msd.dataset.split import Part, split_events
from msd.student.vectors import load_vectors, no_vectors
from msd.training.folder import ModelFolderError, load_ranker
from msd.training.lean import LEAN_FOLDER, train_lean
from msd.training.train import TrainConfig
from msd.training.train_command import training_bar

app = typer.Typer(add_completion=False)


@app.command("lean")
def lean(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[STUDENT] MODEL",
            help="The folder that `msd distill` wrote, if the model was trained with it, and that of `msd train`.",
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights, row order and dropout.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the training rows.")] = 60,
) -> None:
    """Train a lean ranker into MODEL's folder: it scores requests under overload (MSD_LEAN), at a known cost in AUC.

    `msd export` adds it to the bundle. If interrupted, run it again to resume after the last epoch.
    """
    if len(folders) > 2:
        raise typer.BadParameter(f"give DATASET STUDENT MODEL, or DATASET MODEL; {len(folders) + 1} folders are given")
    data, student, model = load_dataset(dataset), folders[0] if len(folders) == 2 else None, folders[-1]
    vectors = load_vectors(student) if student else no_vectors()
    record = load_ranker(model)[1]
    if record.dataset != data.fingerprint:
        raise ModelFolderError(
            f"{model}: was trained on another state of the dataset than {dataset} is in; train again"
        )
    if record.student and record.student != vectors.student:
        given = f"not with {student}" if student else "so give its folder before that of the model"
        raise ModelFolderError(f"{model}: was trained with a student, {given}")
    config = TrainConfig(seed=seed, epochs=epochs)
    rows = int((split_events(data.events, data.config) == Part.TRAIN).sum())
    console = Console()
    found = train_lean(model, data, vectors, config, training_bar(console, "lean", config.steps(rows)))
    best = max(found.curve, key=lambda point: point.valid_auc)
    console.print(f"{model / LEAN_FOLDER}: valid AUC {best.valid_auc:.4f}", highlight=False)
