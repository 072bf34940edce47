"""Training of the lean ranker beside a full one: on the same rows and vectors, without the parts that cost most time
per candidate. A service scores with it while it has no time for the full one (brownout).

It reads the inputs that the full ranker's bundle serves, so its vectors pass through the full one's adaptors, which
stay fixed.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from msd.contract.files import sha256_file
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.model import RankerConfig
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.vectors import StudentVectors
from msd.training.choice import valid_halves, valid_scores
from msd.training.crossfit import CrossfitError
from msd.training.folder import (
    FORMAT,
    WEIGHTS_FILE,
    ChoiceRecord,
    ModelFolderError,
    RankerRecord,
    load_ranker,
    save_ranker,
    vectors_of,
)
from msd.training.train import EpochReport, Progress, TrainConfig, predict, train_ranker

LEAN_FOLDER = "lean"
# Weight of the full model's probability in a distilled label.
_SOFTNESS = 0.5
_OF = "lean_of"
_LABELS, _DISTILLED = "labels", "distilled"

Show = Callable[[str], AbstractContextManager[Progress]]
"""Name of a training → its progress callback."""


class _Trained(NamedTuple):
    model: TrainedRanker
    curve: list[EpochReport]
    seconds: float


def lean_config(config: RankerConfig) -> RankerConfig:
    """Return the configuration of the lean network beside a full one."""
    unused = {"cross_layers": 0, "hidden": (), "fusion": False, "selected": None}
    return config.model_copy(update={"network": "lean", **unused})


def train_lean(model: Path, data: Dataset, given: StudentVectors, config: TrainConfig, show: Show) -> RankerRecord:
    """Train the lean ranker beside the full one in the folder `model`, into a folder within it, unless it exists.

    It learns the labels, or labels mixed with the full model's probabilities if that is surely better on the valid
    rows. `given`: the vectors of the student that the full one was trained with. Raises ModelFolderError.
    """
    full, record = load_ranker(model)
    if record.config.network != "msd":
        raise ModelFolderError(f"{model}: is of the network {record.config.network!r}; only MSD's own has a lean one")
    folder, of, lean = model / LEAN_FOLDER, sha256_file(model / WEIGHTS_FILE), lean_config(record.config)
    run = fingerprint_of(FORMAT, of, lean.model_dump(), asdict(config))
    if is_done(folder, run):
        return load_ranker(folder)[1]
    (folder / STEP_FILE).unlink(missing_ok=True)
    features = build_features(data, record.feature_schema, vectors_of(model, record, given))
    start = time.perf_counter()
    tried: dict[str, _Trained] = {}
    for name, taught in ((_LABELS, features), (_DISTILLED, _distilled(full, features))):
        began = time.perf_counter()
        with show(f"lean, {name}") as progress:
            found, curve = train_ranker(
                taught, lean, config, folder / f"{name}.safetensors", run, progress, adaptors=full.adaptors
            )
        tried[name] = _Trained(found, curve, round(time.perf_counter() - began, 1))
    choice = _choice(data, features, tried)
    kept = tried[choice.networks.kept if choice else _LABELS]
    own = RankerRecord(
        feature_schema=record.feature_schema,
        config=lean,
        training={**asdict(config), "seconds": round(time.perf_counter() - start, 1), _OF: of},
        curve=tuple(kept.curve),
        vector_dim=record.vector_dim,
        dataset=record.dataset,
        student=record.student,
        choice=choice,
        conversions=kept.model.has_conversions,
    )
    save_ranker(folder, kept.model, own)
    for name in tried:
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    mark_done(folder, run, time.perf_counter() - start)
    return own


def load_lean(model: Path) -> TrainedRanker | None:
    """Return the lean ranker in a model's folder, None without one. Raises ModelFolderError if it is unfinished,
    damaged, or was trained beside another model."""
    folder = model / LEAN_FOLDER
    if not folder.is_dir():
        return None
    lean, record = load_ranker(folder)
    if not (folder / STEP_FILE).exists() or record.training.get(_OF) != sha256_file(model / WEIGHTS_FILE):
        raise ModelFolderError(
            f"{folder}: was trained beside another model than {model} holds, or is unfinished; run `msd lean`"
            " again, or remove the folder"
        )
    return lean


def _distilled(full: TrainedRanker, features: Features) -> Features:
    """Return the same rows, with the labels of training rows mixed with the model's probabilities."""
    events = features.of_part(Part.WINDOW, Part.TRAIN)
    labels = features.labels.clone()
    said = torch.from_numpy(predict(full, features, events).astype(np.float32))
    labels[events] = (1 - _SOFTNESS) * labels[events] + _SOFTNESS * said
    return replace(features, labels=labels)


def _choice(data: Dataset, features: Features, tried: dict[str, _Trained]) -> ChoiceRecord | None:
    """Choose by the valid rows; None if they have too few users, so that the one trained on labels is kept."""
    try:
        halves = valid_halves(data)
    except CrossfitError:
        return None
    networks = halves.choose({name: valid_scores(one.model, features) for name, one in tried.items()})
    return ChoiceRecord(networks=networks, seconds={name: one.seconds for name, one in tried.items()})
