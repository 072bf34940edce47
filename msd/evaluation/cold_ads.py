"""Gain from encoding a new ad's text: items withheld from the student are scored with and without their text.

The ranker was trained on these items' clicks, with vectors of a student that was trained on them, so the gain is
optimistic; `msd lab benchmark ml-100k-cold` withholds the items from both.
"""

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import compare, resample_metrics
from msd.contract.encoder_record import ColdAds
from msd.dataset.split import Part
from msd.evaluation.degradation import described, encoded
from msd.metrics import roc_auc
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.student.vectors import LevelVectors
from msd.training.train import predict

RESAMPLES = 1_000


def measure_cold_ads(
    trained: TrainedRanker, features: Features, untaught: LevelVectors, part: Part, resamples: int = RESAMPLES
) -> ColdAds | None:
    """Measure the rows of a part whose items have a vector in `untaught`, as cold ads: no ID, no counts.

    Return None if the model reads no vectors, or the rows have one label only.
    """
    if not features.schema.semantic("item"):
        return None
    place = features.item.entities.place
    known = [row for row, one in enumerate(untaught.ids) if one in place]
    untaught = LevelVectors([untaught.ids[row] for row in known], untaught.vectors[known])
    events = features.of_part(part)
    items = features.item.rows.numpy()[events].astype(np.int64)
    kept = np.isin(items, [place[one] for one in untaught.ids])
    events, items = events[kept], items[kept]
    labels, impressions = features.outcomes(events)
    if not 0 < labels.sum() < len(labels):
        return None
    said = {
        "row": predict(trained, features, events),
        "taught": predict(trained, encoded(features), events),
        "encoded": predict(trained, encoded(features, untaught), events),
        "category_prior": predict(trained, described(features), events),
    }
    auc = {name: roc_auc(labels, one, impressions) for name, one in said.items()}
    return ColdAds(
        rows=len(events),
        items=len(np.unique(items)),
        auc=auc,
        gain=auc["encoded"] - auc["category_prior"],
        ci95=_interval(labels, said["encoded"], said["category_prior"], items, resamples, impressions),
        test=f"paired bootstrap over items, {resamples} resamples",
    )


def _interval(
    labels: NDArray[np.float64],
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    items: NDArray[np.int64],
    resamples: int,
    impressions: NDArray[np.float64],
) -> tuple[float, float] | None:
    """Return the 95 % interval of the gain over items; None for a single item."""
    if len(np.unique(items)) < 2:
        return None
    drawn = resample_metrics(labels, np.stack([one, other]), items, resamples, impressions=impressions)
    found: tuple[float, float] | None = compare(drawn.auc[:1], drawn.auc[1:])["ci95"]
    return found
