"""Trains one network of a benchmark and keeps it, so that a rerun, or a model tuned from it, need not; and tunes it."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from msd.benchmark.protocol import Advance
from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.finetune import TuneConfig, finetune_ranker
from msd.ranker.folder import ModelError, RankerRecord, load_ranker, save_ranker
from msd.ranker.model import RankerConfig
from msd.ranker.train import TrainConfig, train_ranker
from msd.step import STEP_FILE, is_done, mark_done
from msd.student.encoder import load_student
from msd.student.vectors import StudentVectors

_CHECKPOINT = "checkpoint.safetensors"


class Network(NamedTuple):
    """A trained network and the features that it is to be asked with. seconds: what training took, whenever that was;
    own: how much of it just now. vectors: of its own student, if it is tuned."""

    model: TrainedRanker
    seconds: float
    own: float
    vectors: StudentVectors | None = None


class Inputs(NamedTuple):
    """What a network is trained on: fingerprints of the dataset and of what made the vectors, and the features."""

    dataset: str
    student: str
    features: Features


def train_network(
    folder: Path,
    run: str,
    inputs: Inputs,
    config: RankerConfig,
    training: TrainConfig,
    advance: Advance,
) -> Network:
    """The network in `folder` if it is of this `run`, else trained now; cut short, it goes on after its last epoch."""
    if known := _known(folder, run):
        return known
    start = time.perf_counter()
    (folder / STEP_FILE).unlink(missing_ok=True)
    batch = training.batch(len(inputs.features.of_part(Part.WINDOW, Part.TRAIN)))
    steps = -(-len(inputs.features.of_part(Part.WINDOW, Part.TRAIN)) // batch)

    def show(epoch: int, step: int, loss: float) -> None:
        advance(f"epoch {epoch}, loss {loss:.3f}", step, steps)

    model, curve = train_ranker(inputs.features, config, training, folder / _CHECKPOINT, run, show)
    seconds = time.perf_counter() - start
    record = RankerRecord(
        feature_schema=inputs.features.schema,
        config=config,
        training={**asdict(training), "seconds": round(seconds, 1)},
        curve=tuple(curve),
        vector_dim=inputs.features.item.vectors.shape[1],
        dataset=inputs.dataset,
        student=inputs.student,
    )
    save_ranker(folder, model, record)
    mark_done(folder, run, seconds)
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    return Network(model, seconds, seconds)


def tune_network(
    folder: Path,
    run: str,
    first: Network,
    inputs: Inputs,
    student: tuple[Path, StudentVectors],
    texts: tuple[Mapping[str, str], Mapping[str, str]],
    config: TuneConfig,
    advance: Advance,
) -> Network:
    """The network of a first stage trained on together with its student, who is read from its folder."""
    start = time.perf_counter()

    def show(epoch: int, step: int, loss: float) -> None:
        advance(f"tuning, epoch {epoch}, loss {loss:.3f}", step, config.steps)

    path, vectors = folder / _CHECKPOINT, student[1]
    tuned = finetune_ranker(
        first.model, inputs.features, load_student(student[0]), vectors, texts, config, path, run, show
    )
    shutil.rmtree(folder, ignore_errors=True)
    own = time.perf_counter() - start
    return Network(tuned.ranker, first.seconds + own, first.own + own, StudentVectors(run, tuned.items, tuned.users))


def _known(folder: Path, run: str) -> Network | None:
    if not is_done(folder, run):
        return None
    try:
        model, record = load_ranker(folder)
    except ModelError:
        return None
    return Network(model, float(record.training["seconds"]), 0.0)
