"""Predictions of one model with one seed and delay, stored in a file with a fingerprint of all their inputs, and the
rows on which they are measured.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.files import write_bytes_atomic
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

REQUEST_S = 600
"""Length of a request. Rows of one user in it are ranked among each other, if feedback is delayed by as much or more:
then none of them knows what became of the others."""
Floats = NDArray[np.float64]


class Predictions(NamedTuple):
    """Click probabilities of the valid and test rows by view, in the dataset's order. `seconds`: duration, including
    first stages.

    Views are `frozen`, with counts of the end of train, `closed`, with histories of then, too, and `live`, with counts
    of all that was known by then.
    """

    by_view: Mapping[str, Floats]
    seconds: float


class MeasuredRows(NamedTuple):
    """Rows of one part, in the dataset's order: labels [n], and numbers of users and of requests [n]. `among` [m]:
    which of the valid and test rows they are. `item_impressions` [n]: the item's training rows."""

    labels: Floats
    users: NDArray[np.int64]
    requests: NDArray[np.int64]
    among: NDArray[np.bool_]
    item_impressions: NDArray[np.int64]


def rows_of(dataset: Dataset, part: Part) -> MeasuredRows:
    """Return the rows of valid or test."""
    parts = split_events(dataset.events, dataset.config)
    events, training = dataset.events.filter(parts == part), dataset.events.filter(parts <= Part.TRAIN)
    users, requests = (
        events.select(key.rank("dense").cast(pl.Int64)).to_series().to_numpy()
        for key in (pl.col("user_id"), pl.struct("user_id", (pl.col("at") // REQUEST_S).cast(pl.Int64)))
    )
    labels = events["label"].to_numpy().astype(np.float64)
    among = (parts == part)[parts >= Part.VALID]
    counts = training.group_by("item_id").len("shown")
    shown = events.select("item_id").join(counts, "item_id", "left", maintain_order="left")["shown"].fill_null(0)
    return MeasuredRows(labels, users, requests, among, shown.to_numpy().astype(np.int64))


def keep(path: Path, fingerprint: str, found: Predictions) -> None:
    """Write the file atomically."""
    buffer = io.BytesIO()
    arrays = {"fingerprint": np.array(fingerprint), "seconds": np.array(found.seconds), **found.by_view}
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes_atomic(path, buffer.getvalue())


def kept(path: Path, fingerprint: str) -> Predictions | None:
    """Return the predictions of a file with this fingerprint; None if it is missing, damaged, or has another."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            if str(held["fingerprint"]) != fingerprint:
                return None
            names = [name for name in held.files if name not in ("fingerprint", "seconds")]
            return Predictions({name: held[name] for name in names}, float(held["seconds"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
