"""Trained ranker on disk: weights, a record of its schema and training, and its own student if it has one."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.schema import FeatureSchema
from msd.ranker.batch import TrainedRanker
from msd.ranker.model import RankerConfig
from msd.step import read_record
from msd.student.vectors import StudentVectors, load_vectors
from msd.training.crossfit import CrossfitChoice
from msd.training.train import EpochReport

FORMAT = 6
WEIGHTS_FILE, RECORD_FILE = "weights.safetensors", "ranker.json"
STUDENT_FOLDER = "student"


class ModelFolderError(MsdError):
    """A model's folder is missing, damaged, or was trained on something else."""


class TuningRecord(BaseModel):
    """Record of tuning the student with the ranker. `student`: the tuned one's fingerprint, None if tuning was not
    better on the valid rows; then the model reads the distilled student's vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: str | None
    valid_auc_before: float
    valid_auc: float
    epoch: int
    curve: tuple[EpochReport, ...]
    config: dict[str, Any]
    seconds: float


class ChoiceRecord(BaseModel):
    """Choice by the valid rows among networks, before tuning, and whether tuning is kept. `seconds`: training time of
    each; `untried`: left out for lack of time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    networks: CrossfitChoice
    seconds: dict[str, float]
    untried: tuple[str, ...] = ()
    tuning: CrossfitChoice | None = None

    def say(self) -> str:
        """Return the choice in words, with figures."""
        told = [self.networks.say()]
        told += [self.tuning.say()] if self.tuning else []
        told += [f"not tried, as the time was up: {', '.join(self.untried)}"] if self.untried else []
        return "; ".join(told)


class RankerRecord(BaseModel):
    """Record of a ranker's training. `student`: fingerprint of the distilled student that it was trained with, None
    without one. `choice`: of `msd train --choose`. `conversions`: whether it has a head for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    feature_schema: FeatureSchema
    config: RankerConfig
    training: dict[str, Any]
    curve: tuple[EpochReport, ...]
    vector_dim: int
    dataset: str
    student: str | None
    tuning: TuningRecord | None = None
    choice: ChoiceRecord | None = None
    conversions: bool = False

    @property
    def own_student(self) -> str | None:
        """Fingerprint of the student in the model's folder, if it has its own."""
        return self.tuning.student if self.tuning else None

    def is_of(self, dataset: str, student: str) -> bool:
        """Return whether it was trained on this dataset and, if it had a student, with this one."""
        return self.dataset == dataset and self.student in (None, student)


def save_ranker(folder: Path, model: TrainedRanker, record: RankerRecord) -> None:
    """Write the weights, then the record, which makes the folder a model."""
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS_FILE, save(tensors))
    write_text_atomic(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")


def load_ranker(folder: Path) -> tuple[TrainedRanker, RankerRecord]:
    """Return the model in a folder. Raises ModelFolderError if it is missing or damaged."""
    record = _load_record(folder)
    model = TrainedRanker(record.feature_schema, record.config, record.vector_dim, record.conversions)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except FileNotFoundError:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE}: no such file; train again") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS_FILE}: not the weights of {RECORD_FILE}; train again ({error})"
        ) from None
    return model.eval(), record


def student_of(model: Path, record: RankerRecord, given: Path) -> Path:
    """Return the folder of the student that made a model's vectors: its own if it was tuned, else the distilled one."""
    return model / STUDENT_FOLDER if record.own_student else given


def vectors_of(model: Path, record: RankerRecord, given: StudentVectors) -> StudentVectors:
    """Return the vectors that a model reads: of its own student if tuned, else those given. Raises ModelFolderError."""
    if not record.own_student:
        return given
    own = load_vectors(model / STUDENT_FOLDER)
    if own.student != record.own_student:
        raise ModelFolderError(f"{model / STUDENT_FOLDER}: another student than the one of {RECORD_FILE}; train again")
    return own


def _load_record(folder: Path) -> RankerRecord:
    return read_record(
        folder / RECORD_FILE,
        RankerRecord,
        FORMAT,
        f"no trained model here ({RECORD_FILE} is missing); run `msd train`",
        "train again",
        ModelFolderError,
    )
