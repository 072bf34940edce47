"""Predictions of one model with one seed, stored in a file with a fingerprint of all their inputs."""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.files import write_bytes_atomic
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.metrics import roc_auc

Floats = NDArray[np.float64]


class Predictions(NamedTuple):
    """Click probabilities of valid and test rows; `live`: of the test rows with counts kept up to date until then.

    `valid_auc`: AUC on the valid rows. `seconds`: duration, including first stages.
    """

    valid: Floats
    test: Floats
    live: Floats
    valid_auc: float
    seconds: float


class MeasuredRows(NamedTuple):
    """Test rows, in the dataset's order: labels [n], user numbers [n], and whether user and item both have training
    rows [n]."""

    labels: Floats
    users: NDArray[np.int64]
    warm: NDArray[np.bool_]


def rows_of(dataset: Dataset) -> MeasuredRows:
    """Return the dataset's test rows."""
    parts = split_events(dataset.events, dataset.config)
    events = dataset.events.filter(parts == Part.TEST)
    training = dataset.events.filter(parts <= Part.TRAIN)
    warm = [events[name].is_in(training[name].unique().implode()).to_numpy() for name in ("user_id", "item_id")]
    users = events["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    return MeasuredRows(events["label"].to_numpy().astype(np.float64), users, warm[0] & warm[1])


def valid_auc(dataset: Dataset, probabilities: Floats) -> float:
    """Return the AUC over the valid rows, whose probabilities [n] are in the dataset's order."""
    parts = split_events(dataset.events, dataset.config)
    return roc_auc(dataset.events["label"].to_numpy()[parts == Part.VALID], probabilities)


def keep(path: Path, fingerprint: str, found: Predictions) -> None:
    """Write the file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=np.array(fingerprint), **found._asdict())
    write_bytes_atomic(path, buffer.getvalue())


def kept(path: Path, fingerprint: str) -> Predictions | None:
    """Return the predictions of a file with this fingerprint; None if it is missing, damaged, or has another."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            if str(held["fingerprint"]) != fingerprint:
                return None
            probabilities = held["valid"], held["test"], held["live"]
            return Predictions(*probabilities, float(held["valid_auc"]), float(held["seconds"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
