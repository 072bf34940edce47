"""Training of the lean ranker beside a full one: on the same rows, labels and vectors, without the parts that cost most
time per candidate. A service scores with it while it has no time for the full one (brownout).

It reads the inputs that the full ranker's bundle serves, so its vectors pass through the full one's adaptors, which
stay fixed.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from msd.contract.files import sha256_file
from msd.dataset.load import Dataset
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import build_features
from msd.ranker.model import RankerConfig
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.vectors import StudentVectors
from msd.training.folder import FORMAT, WEIGHTS_FILE, ModelFolderError, RankerRecord, load_ranker, save_ranker
from msd.training.train import Progress, TrainConfig, train_ranker

LEAN_FOLDER = "lean"
_OF = "lean_of"
_CHECKPOINT = "checkpoint.safetensors"


def lean_config(config: RankerConfig) -> RankerConfig:
    """Return the configuration of the lean network beside a full one."""
    unused = {"cross_layers": 0, "hidden": (), "fusion": False, "selected": None}
    return config.model_copy(update={"network": "lean", **unused})


def train_lean(
    model: Path, data: Dataset, given: StudentVectors, config: TrainConfig, show: AbstractContextManager[Progress]
) -> RankerRecord:
    """Train the lean ranker beside the full one in the folder `model`, into a folder within it, unless it exists.

    `given`: the vectors of the student that the full one was trained with. Raises ModelFolderError.
    """
    full, record = load_ranker(model)
    if record.config.network != "msd":
        raise ModelFolderError(f"{model}: is of the network {record.config.network!r}; only MSD's own has a lean one")
    folder, of, lean = model / LEAN_FOLDER, sha256_file(model / WEIGHTS_FILE), lean_config(record.config)
    run = fingerprint_of(FORMAT, of, lean.model_dump(), asdict(config))
    if is_done(folder, run):
        return load_ranker(folder)[1]
    (folder / STEP_FILE).unlink(missing_ok=True)
    features = build_features(data, record.feature_schema, given)
    start = time.perf_counter()
    with show as progress:
        trained, curve = train_ranker(
            features, lean, config, folder / _CHECKPOINT, run, progress, adaptors=full.adaptors
        )
    seconds = time.perf_counter() - start
    own = record.model_copy(
        update={
            "config": lean,
            "training": {**asdict(config), "seconds": round(seconds, 1), _OF: of},
            "curve": tuple(curve),
            "choice": None,
            "conversions": trained.has_conversions,
        }
    )
    save_ranker(folder, trained, own)
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    mark_done(folder, run, seconds)
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
