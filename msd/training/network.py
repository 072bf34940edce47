"""Training of one network, stored in a folder, so that reruns and tuned models can reuse it."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.step import STEP_FILE, is_done, mark_done
from msd.training.folder import ModelFolderError, RankerRecord, load_ranker, save_ranker
from msd.training.parallel import ALONE, Team
from msd.training.train import Progress, TrainConfig, train_ranker

_CHECKPOINT = "checkpoint.safetensors"


class TrainedNetwork(NamedTuple):
    """A trained network. `seconds`: training time, in this run or an earlier one; `own`: in this run."""

    model: TrainedRanker
    record: RankerRecord
    seconds: float
    own: float


class NetworkInputs(NamedTuple):
    """Inputs of training: fingerprints of the dataset and of the student that made the vectors, and the features."""

    dataset: str
    student: str
    features: Features


def train_network(
    folder: Path,
    run: str,
    inputs: NetworkInputs,
    config: RankerConfig,
    training: TrainConfig,
    progress: Progress,
    team: Team = ALONE,
) -> TrainedNetwork:
    """Return the network in `folder` if it belongs to this `run`; otherwise train it, resuming after its last epoch."""
    known = _known(folder, run, inputs.features.labels.device)
    if team.mean(float(known is not None)) == 1.0 and known:
        return known
    start = time.perf_counter()
    if team.leads:
        (folder / STEP_FILE).unlink(missing_ok=True)
    model, curve = train_ranker(inputs.features, config, training, folder / _CHECKPOINT, run, progress, team)
    seconds = time.perf_counter() - start
    record = RankerRecord(
        feature_schema=inputs.features.schema,
        config=config,
        training={**asdict(training), "processes": team.size, "seconds": round(seconds, 1)},
        curve=tuple(curve),
        vector_dim=inputs.features.item.vectors.shape[1],
        dataset=inputs.dataset,
        student=inputs.student or None,
        conversions=model.has_conversions,
    )
    if team.leads:
        save_ranker(folder, model, record)
        mark_done(folder, run, seconds)
        (folder / _CHECKPOINT).unlink(missing_ok=True)
    return TrainedNetwork(model, record, seconds, seconds)


def _known(folder: Path, run: str, device: torch.device) -> TrainedNetwork | None:
    if not is_done(folder, run):
        return None
    try:
        model, record = load_ranker(folder)
    except ModelFolderError:
        return None
    return TrainedNetwork(model.to(device), record, float(record.training["seconds"]), 0.0)
