"""Trained ranker on disk: weights, and a record of its schema and training."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.schema import FeatureSchema
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.step import STEP_FILE, is_done, mark_done, read_record
from msd.student.record import STUDENT_FOLDER
from msd.training.content import train_content
from msd.training.crossfit import CrossfitChoice
from msd.training.end_to_end import EndToEnd, StudentTexts
from msd.training.train import EpochReport, Progress, TrainConfig, train_ranker

FORMAT = 13
WEIGHTS_FILE, RECORD_FILE = "weights.safetensors", "ranker.json"
WORK = ".work"
_CHECKPOINT, _STATES = "position.safetensors", "states"


class ModelFolderError(MsdError):
    """A model's folder is missing, damaged, or was trained on something else."""


class RankerRecord(BaseModel):
    """Record of a ranker's training. `student`: fingerprint of the student that it was trained with, None without one.
    `choice`: of `msd train --choose`. `conversions`: whether it has a head for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    feature_schema: FeatureSchema
    config: RankerConfig
    training: dict[str, Any]
    curve: tuple[EpochReport, ...]
    vector_dim: int
    dataset: str
    student: str | None
    choice: CrossfitChoice | None = None
    conversions: bool = False

    def is_of(self, dataset: str, student: str) -> bool:
        """Return whether it was trained on this dataset and, if it had a student, with this one."""
        return self.dataset == dataset and self.student in (None, student)

    def say(self) -> str:
        """Return the choice and the valid AUC in words."""
        best = max(self.curve, key=lambda point: point.score)
        told = f"{self.choice.say()}; " if self.choice else ""
        return f"{told}valid AUC {best.valid_auc:.4f} after epoch {best.epoch} of {len(self.curve)}"


class TrainedNetwork(NamedTuple):
    """A trained network and the record of its training."""

    model: TrainedRanker
    record: RankerRecord


def save_ranker(folder: Path, model: TrainedRanker, record: RankerRecord) -> None:
    """Write the weights, then the record, which makes the folder a model."""
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS_FILE, save(tensors))
    write_text_atomic(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")


def load_ranker(folder: Path) -> TrainedNetwork:
    """Return the model in a folder. Raises ModelFolderError if it is missing or damaged."""
    missing = f"no trained model here ({RECORD_FILE} is missing); run `msd train`"
    record = read_record(folder / RECORD_FILE, RankerRecord, missing, "train again", ModelFolderError)
    model = TrainedRanker(record.feature_schema, record.config, record.vector_dim, record.conversions)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except FileNotFoundError:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE}: no such file; train again") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS_FILE}: not the weights of {RECORD_FILE}; train again ({error})"
        ) from None
    return TrainedNetwork(model.eval(), record)


def finished_network(folder: Path, run: str) -> TrainedNetwork | None:
    """Return the network in the folder, if it belongs to this run and is complete and undamaged."""
    try:
        return load_ranker(folder) if is_done(folder, run) else None
    except ModelFolderError:
        return None


class NetworkInputs(NamedTuple):
    """Inputs of training: fingerprints of the dataset and of the student that made the vectors, and the features;
    `texts`, if the student is trained, too."""

    dataset: str
    student: str
    features: Features
    texts: StudentTexts | None = None


def train_network(
    folder: Path,
    run: str,
    inputs: NetworkInputs,
    config: RankerConfig,
    training: TrainConfig,
    progress: Progress,
) -> TrainedNetwork:
    """Return the network in `folder` if it belongs to this `run`; otherwise train it, resuming where it was.

    A student that is trained with it is then in the folder's STUDENT_FOLDER, and the record's `student` is that one.
    """
    if known := finished_network(folder, run):
        known.model.to(inputs.features.labels.device)
        return known
    start = time.perf_counter()
    (folder / STEP_FILE).unlink(missing_ok=True)
    student = inputs.student
    if config.network == "content":
        model, curve = train_content(inputs.features, config, training.seed)
    elif inputs.texts:
        read = EndToEnd.of(inputs.texts, inputs.features, config.layers, folder / _STATES)
        features = read.encoded(inputs.features)
        model, curve = train_ranker(features, config, training, folder / _CHECKPOINT, run, progress, read)
        student = read.save(model, inputs.texts.student, folder / STUDENT_FOLDER)
        model.lora = None
        shutil.rmtree(folder / _STATES)
    else:
        model, curve = train_ranker(inputs.features, config, training, folder / _CHECKPOINT, run, progress)
    seconds = time.perf_counter() - start
    record = RankerRecord(
        feature_schema=inputs.features.schema,
        config=model.config,
        training={**asdict(training), "seconds": round(seconds, 1)},
        curve=tuple(curve),
        vector_dim=inputs.features.item.vectors.shape[1],
        dataset=inputs.dataset,
        student=student or None,
        conversions=model.has_conversions,
    )
    save_ranker(folder, model, record)
    mark_done(folder, run, seconds)
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    return TrainedNetwork(model, record)
