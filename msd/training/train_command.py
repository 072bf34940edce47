"""`msd train`: train and calibrate a ranker on a dataset and a student."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
import torch
import typer
from rich.console import Console

from msd.contract.files import held_folder
from msd.dataset.conversions import say_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.ranker.model import NetworkName, RankerConfig
from msd.report import bar
from msd.step import STEP_FILE, check_out, fingerprint_of, mark_done
from msd.student.record import STUDENT_FOLDER
from msd.student.vectors import StudentVectors, load_vectors, no_vectors
from msd.training.choice import (
    SIMPLER,
    WHOLE,
    WITHOUT_SEMANTICS,
    Training,
    Variant,
    choose_network,
    table_of,
    valid_halves,
    variants_of,
)
from msd.training.crossfit import CrossfitError, UserHalves
from msd.training.end_to_end import StudentTexts
from msd.training.folder import (
    FORMAT,
    RECORD_FILE,
    WORK,
    ModelFolderError,
    TrainedNetwork,
    finished_network,
    save_ranker,
)
from msd.training.train import Progress as Hear
from msd.training.train import TrainConfig

app = typer.Typer(add_completion=False)


@app.command("train")
def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[STUDENT] OUT",
            help="The folder that `msd distill` wrote, which --no-semantics does without, and that for the model.",
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights, row order and dropout.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the training rows.")] = 60,
    semantics: Annotated[bool, typer.Option(help="Use the student's vectors.")] = True,
    network: Annotated[
        NetworkName,
        typer.Option(
            help="MSD's network as it stands here; that of its paper, trained end to end with the student, which is "
            "then in OUT/student; a ridge regression on texts within tests; or a baseline."
        ),
    ] = "msd",
    without: Annotated[
        Literal["user_knowledge", "taste"] | None,
        typer.Option(help="Train the network without a part, as --choose chose it before."),
    ] = None,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Also train the network without vectors, user knowledge or taste; keep what ranks valid surely "
            "better.",
        ),
    ] = False,
) -> None:
    """Train the CTR model. If interrupted, run it again to resume where it was.

    The features are in files beside the model until it is trained, so that they need not fit into memory.
    """
    start = time.perf_counter()
    student, out = _student_and_out(folders, semantics)
    if without and (choose or not semantics or network != "msd"):
        raise typer.BadParameter("--without is of MSD's own network with semantics, and does not go with --choose")
    if network in ("content", "paper") and not semantics:
        raise typer.BadParameter(f"--network {network} reads the texts' vectors: it needs a student and semantics")
    console, data = Console(), load_dataset(dataset)
    vectors, known = load_vectors(student) if student else no_vectors(), data.fingerprint
    model_config, config = RankerConfig(network=network), TrainConfig(seed=seed, epochs=epochs)
    halves = _halves(data, network, semantics, vectors) if choose else None
    # A given student is part of the fingerprint even without semantics, because the record names it.
    options = (semantics, model_config.model_dump(), asdict(config))
    form = "choose" if choose else without
    run = fingerprint_of(FORMAT, known, vectors.student, *options, *([form] if form else []))
    if finished_network(out, run):
        console.print(f"{out}: done before, nothing to do", highlight=False)
        return
    texts = _texts(data, student, vectors, out) if network == "paper" and student else None
    # The texts' states are in a mapped file, and read on the CPU.
    device = torch.device("cuda" if torch.cuda.is_available() and texts is None else "cpu")
    networks = Training(known, vectors, model_config, config, out / WORK, device, texts)
    only = next((variant for variant in SIMPLER if variant.name == f"without_{without}"), WHOLE)
    variants = variants_of(vectors) if choose else (only if semantics else WITHOUT_SEMANTICS,)
    taken = ModelFolderError(f"{out}: another training runs there; wait for its end, or name another folder")
    with held_folder(out, taken):
        (out / STEP_FILE).unlink(missing_ok=True)  # the completion mark of an earlier model
        parts = split_events(data.events, data.config)
        rows = int(np.count_nonzero(parts <= Part.TRAIN))
        if network == "msd":
            for line in say_conversions(data.events, pl.Series(parts == Part.VALID)):
                console.print(line, highlight=False)
        for variant in variants:
            networks.write_features(variant, data)
        del data, parts  # their memory is needed
        trained = _train(networks, rows, variants, halves, console)
        if texts:
            shutil.copytree(networks.folder_of(variants[0]) / STUDENT_FOLDER, out / STUDENT_FOLDER, dirs_exist_ok=True)
        save_ranker(out, trained.model.cpu(), trained.record)
        shutil.rmtree(out / WORK)
        mark_done(out, run, time.perf_counter() - start)
    console.print(f"{out}: {trained.record.say()}", highlight=False)
    if texts:
        console.print(f"its student is {out / STUDENT_FOLDER}; name that in later commands", highlight=False)


def _texts(data: Dataset, student: Path, vectors: StudentVectors, out: Path) -> StudentTexts:
    """Return the texts of a student that is trained, too. Raises ModelFolderError if there are none."""
    if not vectors.items.ids:
        raise ModelFolderError("no item has a text: --network paper has nothing to read")
    if (out / STUDENT_FOLDER).resolve() == student.resolve():
        raise ModelFolderError(f"{student} is where {out} keeps its own student; name another folder for the model")
    return StudentTexts.of(student, data)


def _halves(data: Dataset, network: NetworkName, semantics: bool, vectors: StudentVectors) -> UserHalves:
    """Return the valid rows to choose by. Raises ModelFolderError if there is nothing to choose, or if the rows do not
    suffice."""
    reasons = {
        f"{network} is a baseline, not MSD's own network": network != "msd",
        "a model without semantics does not read the student's vectors": not semantics,
        "no item has a text": not vectors.items.ids,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelFolderError(f"nothing to choose: {reason}; train without --choose")
    try:
        return valid_halves(data)
    except CrossfitError as error:
        raise ModelFolderError(f"{error}; train without --choose") from None


def _student_and_out(folders: list[Path], semantics: bool) -> tuple[Path | None, Path]:
    """Return the student's folder, if given, and the model's. Raises typer.BadParameter."""
    if len(folders) == 2 or (len(folders) == 1 and not semantics):
        student, out = folders[0] if len(folders) == 2 else None, folders[-1]
        check_out(out, (RECORD_FILE, WORK), "model", ModelFolderError)
        return student, out
    expected = "expected 3 folders, DATASET STUDENT OUT, or with --no-semantics 2, DATASET OUT"
    raise typer.BadParameter(f"{expected}; got {len(folders) + 1}")


def _train(
    networks: Training, rows: int, variants: Sequence[Variant], halves: UserHalves | None, console: Console
) -> TrainedNetwork:
    """Return the first variant's network, or the one that valid chooses. `rows`: those to train on."""
    show = partial(training_bar, console, steps=networks.settings.steps(rows))
    if not halves:
        return networks.train(variants[0], show("train"))[0]
    kept, choice = choose_network(networks, variants, halves, show)
    console.print(table_of(choice))
    return kept._replace(record=kept.record.model_copy(update={"choice": choice}))


@contextmanager
def training_bar(console: Console, name: str, steps: int) -> Iterator[Hear]:
    """Show a progress bar with epoch, step and loss; yield its callback. `steps`: per epoch."""
    with bar(console) as heard:
        yield lambda epoch, step, loss: heard(f"{name}, epoch {epoch}", step, steps, f"loss {loss:.4f}")
