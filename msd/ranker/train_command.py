"""`msd train`: dataset and student in, a trained, tuned and calibrated ranker out."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.duration import USUAL_EPOCHS, Machine, Rows, about, tokens_of, training
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.finetune import Texts, TuneConfig, finetune_ranker, save_own_student
from msd.ranker.folder import (
    FORMAT,
    RECORD_FILE,
    STUDENT_FOLDER,
    ModelError,
    RankerRecord,
    TuningRecord,
    load_ranker,
    save_ranker,
)
from msd.ranker.live_vectors import require_texts
from msd.ranker.model import RankerConfig
from msd.ranker.parallel import Team, join_team
from msd.ranker.schema_fit import fit_schema
from msd.ranker.train import Progress as Hear
from msd.ranker.train import TrainConfig, train_ranker
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.encoder import Student, load_student
from msd.student.record import StudentError
from msd.student.vectors import StudentVectors, load_vectors, no_vectors

app = typer.Typer(add_completion=False)
_WORK = ".work"


class NetworkName(StrEnum):
    """What `--network` may be."""

    MSD = "msd"
    LR = "lr"
    DEEPFM = "deepfm"
    DIN = "din"
    DCNV2 = "dcnv2"


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
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the training rows.")] = 20,
    semantics: Annotated[bool, typer.Option(help="Use the student's vectors.")] = True,
    lora: Annotated[
        bool, typer.Option(help="Then tune the student's top layer with the model, if it improves the valid AUC.")
    ] = True,
    network: Annotated[NetworkName, typer.Option(help="MSD's network, or a baseline.")] = NetworkName.MSD,
) -> None:
    """Train the CTR model. If interrupted, run it again to resume after the last epoch.

    `torchrun --nproc-per-node 2 -m msd train …` has several processes share the work.
    """
    start = time.perf_counter()
    student, out = _student_and_out(folders, semantics)
    with join_team(os.environ) as team:
        console = Console(quiet=not team.leads)
        data, vectors = load_dataset(dataset), load_vectors(student) if student else no_vectors()
        model_config, config = RankerConfig(network=network.value), TrainConfig(seed=seed, epochs=epochs)
        tuning = TuneConfig(seed=seed) if lora else None
        if tuning and (reason := _why_untuned(network, semantics, vectors)):
            if student:
                console.print(f"the student stays as it is: {reason}", highlight=False)
            tuning = None
        # A student that is given counts without semantics too, for the record names it.
        options = (semantics, model_config.model_dump(), asdict(config), asdict(tuning) if tuning else None)
        run = fingerprint_of(FORMAT, data.fingerprint, vectors.student, *options)
        if team.mean(_is_whole(out, run)) == 1.0:
            console.print(f"{out}: done before, nothing to do", highlight=False)
            return
        pupil = _pupil(student, vectors, data) if tuning and student else None
        _clear(out, team)
        console.print(_plan(data, config, pupil), highlight=False)
        features = build_features(data, fit_schema(data, semantics=semantics), vectors).to(team.device)
        rows = len(features.of_part(Part.WINDOW, Part.TRAIN))
        with _bar(console, "train", -(-rows // config.batch(rows))) as hear:
            checkpoint = out / _WORK / "checkpoint.safetensors"
            model, curve = train_ranker(features, model_config, config, checkpoint, run, hear, team)
        record = RankerRecord(
            feature_schema=features.schema,
            config=model_config,
            training={**asdict(config), "processes": team.size, "seconds": round(time.perf_counter() - start, 1)},
            curve=tuple(curve),
            vector_dim=features.item.vectors.shape[1],
            dataset=data.fingerprint,
            student=vectors.student or None,
        )
        if tuning and pupil:
            with _bar(console, "tune", None) as hear:
                model, tuned = _tune(model, features, pupil, out, tuning, run, hear, team)
            record = record.model_copy(update={"tuning": tuned})
        if team.leads:
            save_ranker(out, model.cpu(), record)
            shutil.rmtree(out / _WORK)
            mark_done(out, run, time.perf_counter() - start)
        console.print(f"{out}: {_told(record)}", highlight=False)


def _why_untuned(network: NetworkName, semantics: bool, vectors: StudentVectors) -> str | None:
    """Why the student is not tuned though one asked for it; None if it is."""
    if network != NetworkName.MSD:
        return f"baselines such as {network.value} are trained without LoRA"
    if not semantics:
        return "a model without semantics does not read its vectors"
    if not vectors.items.ids:
        return "no item has a text"
    return None


class _Pupil(NamedTuple):
    """The student that is to be tuned, its vectors, and the texts of items and of users."""

    encoder: Student
    vectors: StudentVectors
    texts: tuple[Texts, Texts]


def _pupil(student: Path, vectors: StudentVectors, data: Dataset) -> _Pupil:
    """Loaded before training, so that what is missing is told at once. Raises StudentError."""
    texts = student_texts(data)
    require_texts("item", vectors.items, texts[0])
    require_texts("user", vectors.users, texts[1])
    return _Pupil(load_student(student), vectors, texts)


def _plan(data: Dataset, config: TrainConfig, pupil: _Pupil | None) -> str:
    """How much is trained on, and how long that usually takes."""
    rows, machine = Rows.of(data), Machine.measured()
    epochs = min(config.epochs, USUAL_EPOCHS)
    tuned = sum(tokens_of(texts.values()) for texts in pupil.texts) if pupil else 0.0
    seconds = training(machine, rows, epochs, tuned)
    told = f"{rows.train:,} rows to train on, {epochs} epochs"
    told += f" ({config.epochs} at most, until the valid AUC stays)" if config.epochs > epochs else ""
    return f"{told}{', then the student is tuned (--no-lora: not)' if pupil else ''}: {about(seconds)}"


def _student_and_out(folders: list[Path], semantics: bool) -> tuple[Path | None, Path]:
    """Which folders are the student's, if one is given, and the model's. Raises typer.BadParameter."""
    if len(folders) == 2 or (len(folders) == 1 and not semantics):
        student, out = folders[0] if len(folders) == 2 else None, folders[-1]
        _check_out(out, student)
        return student, out
    due = "three folders are due, DATASET STUDENT OUT, or with --no-semantics two, DATASET OUT"
    raise typer.BadParameter(f"{due}; {len(folders) + 1} are given")


def _check_out(out: Path, student: Path | None) -> None:
    """Training clears its folder, so it is not to be one of other things."""
    if out.is_file():
        raise ModelError(f"{out} is a file; name a folder for the model")
    if student and (out / STUDENT_FOLDER).resolve() == student.resolve():
        raise ModelError(f"{student} is where {out} keeps a student of its own; name another folder for the model")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in (RECORD_FILE, _WORK)):
        raise ModelError(f"{out} holds other things than a model; name an empty or a new folder")


def _clear(out: Path, team: Team) -> None:
    """Takes back that the folder is complete, and a student that an earlier model had."""
    if team.leads:
        (out / STEP_FILE).unlink(missing_ok=True)
        if (out / STUDENT_FOLDER).is_dir():
            shutil.rmtree(out / STUDENT_FOLDER)


def _tune(
    model: TrainedRanker,
    features: Features,
    pupil: _Pupil,
    out: Path,
    config: TuneConfig,
    run: str,
    hear: Hear,
    team: Team,
) -> tuple[TrainedRanker, TuningRecord]:
    """The tuned model with its record; its student is in the model's folder, if tuning made it better."""
    start = time.perf_counter()
    encoder, vectors, texts = pupil
    checkpoint = out / _WORK / "tuning.safetensors"
    tuned = finetune_ranker(model, features, encoder, vectors, texts, config, checkpoint, run, hear, team)
    own = None
    if tuned.epoch and team.leads:
        own = save_own_student(out / STUDENT_FOLDER, encoder, tuned, config)
    return tuned.ranker, TuningRecord(
        student=own,
        valid_auc_before=tuned.valid_auc_before,
        valid_auc=tuned.valid_auc,
        epoch=tuned.epoch,
        curve=tuple(tuned.curve),
        config=asdict(config),
        seconds=round(time.perf_counter() - start, 1),
    )


@contextmanager
def _bar(console: Console, name: str, steps: int | None) -> Iterator[Hear]:
    """A bar that shows epoch, step and loss; `steps`: of an epoch, where it is known."""
    columns = (TextColumn("{task.description}, epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("step {task.completed}, loss {task.fields[loss]:.4f}"), console=console) as bars:
        bar = bars.add_task(name, total=steps, epoch=1, loss=0.0)

        def hear(epoch: int, step: int, loss: float) -> None:
            bars.update(bar, completed=step, epoch=epoch, loss=loss)
            # A full bar's clock stands still, and an epoch that fills it need not be the last.
            bars.tasks[0].finished_time = None

        yield hear


def _told(record: RankerRecord) -> str:
    best = max(record.curve, key=lambda point: point.valid_auc)
    told = f"valid AUC {best.valid_auc:.4f} after epoch {best.epoch} of {len(record.curve)}"
    if not (tuning := record.tuning):
        return told
    if not tuning.student:
        return f"{told}; tuning the student gave {tuning.curve[-1].valid_auc:.4f}, so it stays as it was distilled"
    return f"{told}, {tuning.valid_auc:.4f} with the student tuned"


def _is_whole(out: Path, run: str) -> bool:
    """Whether the folder holds the model of this very run, undamaged."""
    if not is_done(out, run):
        return False
    try:
        _, record = load_ranker(out)
        if record.own_student:
            own = out / STUDENT_FOLDER
            return {load_student(own).record.fingerprint, load_vectors(own).student} == {record.own_student}
    except (ModelError, StudentError):
        return False
    return True
