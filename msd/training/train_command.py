"""`msd train`: train, tune and calibrate a ranker on a dataset and a student."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import polars as pl
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from msd.dataset.conversions import say_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.duration import USUAL_EPOCHS, Machine, PartRows, about, tokens_of, training
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.step import STEP_FILE, fingerprint_of, mark_done
from msd.student.encoder import Student, load_student
from msd.student.vectors import StudentVectors, load_vectors, no_vectors
from msd.training.choice import (
    SIMPLER,
    WHOLE,
    WITHOUT_SEMANTICS,
    WITHOUT_USER_KNOWLEDGE,
    Training,
    Variant,
    choose_network,
    choose_tuning,
    table_of,
    valid_halves,
    variants_of,
)
from msd.training.crossfit import CrossfitError, UserHalves
from msd.training.finetune import Texts, TuneConfig, finetune_ranker, require_texts, save_own_student
from msd.training.folder import (
    FORMAT,
    STUDENT_FOLDER,
    WORK,
    ModelFolderError,
    RankerRecord,
    TuningRecord,
    check_model_folder,
    holds_model,
    save_ranker,
)
from msd.training.parallel import Team, join_team
from msd.training.train import Progress as Hear
from msd.training.train import TrainConfig

app = typer.Typer(add_completion=False)


class NetworkName(StrEnum):
    """Values of `--network`."""

    MSD = "msd"
    LR = "lr"
    DEEPFM = "deepfm"
    DIN = "din"
    DCNV2 = "dcnv2"


class Without(StrEnum):
    """Values of `--without`: names of networks in `SIMPLER`, without the prefix `without_`."""

    USER_KNOWLEDGE = "user_knowledge"
    ITEM_FUSION = "item_fusion"
    SELECTOR = "selector"


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
    lora: Annotated[
        bool, typer.Option(help="Then tune the student's top layer with the model, if it improves the valid AUC.")
    ] = True,
    lora_steps: Annotated[int, typer.Option(min=1, help="Most steps of that tuning.")] = TuneConfig.steps,
    network: Annotated[NetworkName, typer.Option(help="MSD's network, or a baseline.")] = NetworkName.MSD,
    without: Annotated[
        Without | None, typer.Option(help="Train the network without a part, as --choose chose it before.")
    ] = None,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Also train the network without vectors, user knowledge, Fusion or Selector; "
            "keep what ranks valid surely better.",
        ),
    ] = False,
) -> None:
    """Train the CTR model. If interrupted, run it again to resume after the last epoch.

    `torchrun --nproc-per-node 2 -m msd train …` has several processes share the work.
    """
    start = time.perf_counter()
    student, out = _student_and_out(folders, semantics)
    if without and (choose or not semantics or network != NetworkName.MSD):
        raise typer.BadParameter("--without is of MSD's own network with semantics, and does not go with --choose")
    with join_team(os.environ) as team:
        console = Console(quiet=not team.leads)
        data, vectors = load_dataset(dataset), load_vectors(student) if student else no_vectors()
        model_config, config = RankerConfig(network=network.value), TrainConfig(seed=seed, epochs=epochs)
        tuning = TuneConfig(seed=seed, steps=lora_steps) if lora else None
        reason = _why_without(network, semantics, vectors)
        halves = _halves(data, reason, team) if choose else None
        if tuning and reason:
            if student:
                console.print(f"the student stays as it is: {reason}", highlight=False)
            tuning = None
        # A given student is part of the fingerprint even without semantics, because the record names it.
        options = (semantics, model_config.model_dump(), asdict(config), asdict(tuning) if tuning else None)
        form = "choose" if choose else without
        run = fingerprint_of(FORMAT, data.fingerprint, vectors.student, *options, *([form] if form else []))
        if team.mean(holds_model(out, run)) == 1.0:
            console.print(f"{out}: done before, nothing to do", highlight=False)
            return
        if network == NetworkName.MSD:
            valid = pl.Series(split_events(data.events, data.config) == Part.VALID)
            for line in say_conversions(data.events, valid):
                console.print(line, highlight=False)
        pupil = _pupil(student, vectors, data, tuning) if tuning and student else None
        if team.leads:  # what is there of an earlier model: its completion mark and its own student
            (out / STEP_FILE).unlink(missing_ok=True)
            shutil.rmtree(out / STUDENT_FOLDER, ignore_errors=True)
        networks = Training(data, vectors, model_config, config, out / WORK, team)
        job = _Job(networks, out, run, console, pupil, halves)
        only = next((variant for variant in SIMPLER if variant.name == f"without_{without}"), WHOLE)
        model, record = job.make(variants_of(vectors) if choose else (only if semantics else WITHOUT_SEMANTICS,))
        if team.leads:
            save_ranker(out, model.cpu(), record)
            shutil.rmtree(out / WORK)
            mark_done(out, run, time.perf_counter() - start)
        console.print(f"{out}: {record.say()}", highlight=False)


def _halves(data: Dataset, reason: str | None, team: Team) -> UserHalves:
    """Return the valid rows to choose by. Raises ModelFolderError in a team, if there is nothing to choose (`reason`),
    or if the rows do not suffice."""
    if team.size > 1:
        raise ModelFolderError("--choose trains one network after the other; run it in one process, without torchrun")
    if reason:
        raise ModelFolderError(f"nothing to choose: {reason}; train without --choose")
    try:
        return valid_halves(data)
    except CrossfitError as error:
        raise ModelFolderError(f"{error}; train without --choose") from None


def _why_without(network: NetworkName, semantics: bool, vectors: StudentVectors) -> str | None:
    """Return why the model has neither LoRA nor parts to choose from; None if it has."""
    if network != NetworkName.MSD:
        return f"{network.value} is a baseline, not MSD's own network"
    if not semantics:
        return "a model without semantics does not read the student's vectors"
    if not vectors.items.ids:
        return "no item has a text"
    return None


class _Pupil(NamedTuple):
    """The student to tune, its vectors, the texts of items and of users, and the tuning options."""

    encoder: Student
    vectors: StudentVectors
    texts: tuple[Texts, Texts]
    config: TuneConfig

    def of(self, variant: Variant) -> "_Pupil":
        """Return the pupil for a variant: without users' texts if the variant has no user knowledge."""
        if variant != WITHOUT_USER_KNOWLEDGE:
            return self
        return self._replace(vectors=replace(self.vectors, users=no_vectors().users), texts=(self.texts[0], {}))


def _pupil(student: Path, vectors: StudentVectors, data: Dataset, config: TuneConfig) -> _Pupil:
    """Load the student before training, so that missing parts are reported at once. Raises StudentError."""
    texts = student_texts(data)
    require_texts("item", vectors.items, texts[0])
    require_texts("user", vectors.users, texts[1])
    return _Pupil(load_student(student), vectors, texts, config)


def _student_and_out(folders: list[Path], semantics: bool) -> tuple[Path | None, Path]:
    """Return the student's folder, if given, and the model's. Raises typer.BadParameter."""
    if len(folders) == 2 or (len(folders) == 1 and not semantics):
        student, out = folders[0] if len(folders) == 2 else None, folders[-1]
        check_model_folder(out, student)
        return student, out
    expected = "expected 3 folders, DATASET STUDENT OUT, or with --no-semantics 2, DATASET OUT"
    raise typer.BadParameter(f"{expected}; got {len(folders) + 1}")


@dataclass(frozen=True)
class _Job:
    """Training of a model into a folder: shared settings of its networks, tuning, and the rows to choose by."""

    networks: Training
    out: Path
    run: str
    console: Console
    pupil: _Pupil | None
    halves: UserHalves | None

    def make(self, variants: Sequence[Variant]) -> tuple[TrainedRanker, RankerRecord]:
        """Train the first variant, or the one that valid chooses; tune it and return it."""
        rows, networks = PartRows.of(self.networks.data), self.networks
        show = partial(training_bar, self.console, steps=networks.settings.steps(rows.train))
        self._tell_plan(rows, variants)
        variant, choice = variants[0], None
        if self.halves:
            variant, choice = choose_network(networks, variants, self.halves, show)
            self.console.print(table_of(choice))
        trained, features = networks.train(variant, show("train"))
        record = trained.record.model_copy(update={"choice": choice})
        if self.pupil and variant.semantics:
            return self._tuned(trained.model, record, features, variant, self.pupil.of(variant))
        return trained.model, record

    def _tell_plan(self, rows: PartRows, variants: Sequence[Variant]) -> None:
        """Print the amount of training and its usual time."""
        machine, most = Machine.measured(), self.networks.settings.epochs
        epochs = min(most, USUAL_EPOCHS)
        network = tuned = training(machine, rows, epochs)
        if self.pupil:
            tokens, steps = sum(tokens_of(texts.values()) for texts in self.pupil.texts), self.pupil.config.steps
            tuned = training(machine, rows, epochs, tuned_tokens=tokens, tuned_steps=steps)
        done = sum(map(self.networks.is_done, variants))
        told = f"{rows.train:,} rows to train on, {epochs} epochs"
        told += f" ({most} at most, until the valid AUC stays)" if most > epochs else ""
        told += f", {len(variants)} networks to choose from" if self.halves else ""
        told += f", of which {done} done before" if self.halves and done else ""
        told += ", then the student is tuned (--no-lora: not)" if self.pupil else ""
        told += f": {about((len(variants) - done) * network + tuned - network)}"
        self.console.print(told, highlight=False)

    def _tuned(
        self, untuned: TrainedRanker, record: RankerRecord, features: Features, variant: Variant, pupil: _Pupil
    ) -> tuple[TrainedRanker, RankerRecord]:
        """Return the tuned model, and write its student into its folder, if tuning is better; else the untuned one."""
        start, team = time.perf_counter(), self.networks.team
        encoder, vectors, texts, config = pupil
        run, checkpoint = f"{self.run} {variant.name}", self.networks.work / "tuning.safetensors"
        with training_bar(self.console, "tune", None) as hear:
            tuned = finetune_ranker(untuned, features, encoder, vectors, texts, config, checkpoint, run, hear, team)
        model, own = tuned.ranker, None
        if tuned.epoch and self.halves and record.choice:
            after = StudentVectors("", tuned.items, tuned.users)
            judged = choose_tuning(self.networks, self.halves, (untuned, features), (model, after))
            record = record.model_copy(update={"choice": record.choice.model_copy(update={"tuning": judged})})
            if judged.kept == judged.whole:
                model, tuned = untuned, tuned._replace(epoch=0)
        if tuned.epoch and team.leads:
            own = save_own_student(self.out / STUDENT_FOLDER, encoder, tuned, config)
        told = TuningRecord(
            student=own,
            valid_auc_before=tuned.valid_auc_before,
            valid_auc=tuned.valid_auc,
            epoch=tuned.epoch,
            curve=tuple(tuned.curve),
            config=asdict(config),
            seconds=round(time.perf_counter() - start, 1),
        )
        return model, record.model_copy(update={"tuning": told})


@contextmanager
def training_bar(console: Console, name: str, steps: int | None) -> Iterator[Hear]:
    """Show a progress bar with epoch, step and loss; yield its callback. `steps`: per epoch, if known."""
    columns = (TextColumn("{task.description}, epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("step {task.completed}, loss {task.fields[loss]:.4f}"), console=console) as bars:
        bar = bars.add_task(name, total=steps, epoch=1, loss=0.0)

        def hear(epoch: int, step: int, loss: float) -> None:
            bars.update(bar, completed=step, epoch=epoch, loss=loss)
            # A full bar stops its clock, but the epoch that fills it need not be the last.
            bars.tasks[0].finished_time = None

        yield hear
