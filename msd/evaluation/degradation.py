"""Test rows without some inputs, as degraded requests are scored, and the gain from a cold ad's text."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd.bootstrap import compare, resample_metrics
from msd.contract.encoder_record import ColdAds
from msd.contract.schema import FeatureSchema
from msd.dataset.split import Part
from msd.metrics import roc_auc
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, SideFeatures
from msd.student.vectors import LevelVectors
from msd.training.train import predict

RESAMPLES = 1_000


def degraded(features: Features) -> Iterator[tuple[str, Features]]:
    """Yield the features on each rung, by name; "item without vector" only if the model reads vectors.

    "item unknown, features given" is a cold ad whose request gives its features; `cold_ads` measures the value of its
    text. "user unknown" keeps the history, which a request may bring; without history nothing is known of the user.
    """
    yield "item unknown", replace(features, item=_unknown(features.item), taste=None)
    yield "item unknown, features given", described(features)
    if features.schema.semantic("item"):
        dense = features.item.dense.clone()
        dense[:, -1] = 0.0  # the last column says whether there is a vector
        item = _twins(features.item, features.item.entities.categorical, dense)
        yield "item without vector", replace(features, item=item, taste=None)
    stranger = replace(features, user=_unknown(features.user))
    yield "user unknown", stranger
    nothing, no_outcomes = torch.full_like(features.history, -1), torch.zeros_like(features.history_outcomes)
    yield "user unknown, no history", replace(stranger, history=nothing, history_outcomes=no_outcomes, taste=None)
    yield "aged counts", replace(features, user=_aged(features.user), item=_aged(features.item))


def _unknown(side: SideFeatures) -> SideFeatures:
    """Replace every event's user or item by the unknown one, as the contract encodes it."""
    return replace(
        side,
        rows=torch.full_like(side.rows, side.entities.unknown),
        dense=side.unknown_dense.expand_as(side.dense),
    )


def _aged(side: SideFeatures) -> SideFeatures:
    """Give every event the counts of a random earlier time."""
    return replace(side, dense=side.aged_dense[0])


def described(features: Features) -> Features:
    """Make every event's item unknown except for its request features: no ID, no counts, no vector."""
    return replace(features, item=_twins(features.item, *_given(features.item, features.schema)), taste=None)


def encoded(features: Features, vectors: LevelVectors | None = None) -> Features:
    """Do as `described` does, but keep the vector of an item's text, if any: its own, or the given one [n, V] by ID."""
    side = features.item
    categorical, dense = _given(side, features.schema)
    dense[:, -1] = side.dense[:, -1]  # the last column says whether there is a vector
    twins = _twins(side, categorical, dense, with_vectors=True)
    if vectors is not None:
        held = twins.vectors.clone()
        places = torch.tensor([side.entities.unknown + side.entities.place[id_] for id_ in vectors.ids])
        held[places] = torch.from_numpy(vectors.vectors)
        twins = replace(twins, vectors=held)
    return replace(features, item=twins, taste=None)


def _given(side: SideFeatures, schema: FeatureSchema) -> tuple[NDArray[np.int32], Tensor]:
    """Return, for each item and each event, what a request may give for an item without a row."""
    categorical = side.entities.categorical.copy()
    for field in schema.indexed("item"):
        if field.name not in schema.settable["item"]:
            categorical[:, schema.columns[field.name]] = categorical[-1, schema.columns[field.name]]
    dense = side.unknown_dense.repeat(len(side.dense), 1)
    numbers = schema.numeric_width("item")
    dense[:, :numbers] = side.dense[:, :numbers]
    return categorical, dense


def _twins(
    side: SideFeatures, categorical: NDArray[np.int32], dense: Tensor, with_vectors: bool = False
) -> SideFeatures:
    """Replace every event's item by a twin with `categorical` [n + 1, C] by item and `dense` [E, D] by event, without a
    vector unless `with_vectors`. Histories keep the original items."""
    held = side.entities
    count = held.unknown
    twins = replace(
        held,
        ids=held.ids * 2,
        categorical=np.concatenate([held.categorical[:count], categorical]),
        numeric=np.concatenate([held.numeric[:count], held.numeric]),
    )
    kept = (side.vectors, side.present)
    vectors, present = kept if with_vectors else map(torch.zeros_like, kept)
    return replace(
        side,
        entities=twins,
        rows=side.rows + count,
        categorical=torch.from_numpy(twins.categorical),
        dense=dense,
        vectors=torch.cat([side.vectors[:count], vectors]),
        present=torch.cat([side.present[:count], present]),
    )


def measure_cold_ads(
    trained: TrainedRanker, features: Features, untaught: LevelVectors, part: Part, resamples: int = RESAMPLES
) -> ColdAds | None:
    """Measure the rows of a part whose items have a vector in `untaught`, as cold ads: no ID, no counts.

    Each is scored with and without its text. The ranker was trained on these items' clicks, with vectors of a student
    that was trained on them, so the gain is optimistic; the benchmark ml-100k-cold withholds the items from both.
    Return None if the model reads no vectors, or the rows have one label only.
    """
    if not features.schema.semantic("item"):
        return None
    place = features.item.entities.place
    known = [row for row, one in enumerate(untaught.ids) if one in place]
    untaught = LevelVectors([untaught.ids[row] for row in known], untaught.vectors[known])
    events = features.of_part(part)
    items = features.item.rows.numpy()[events].astype(np.int64)
    kept = np.isin(items, [place[id_] for id_ in untaught.ids])
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
    ci95: tuple[float, float] | None = None
    if len(np.unique(items)) > 1:
        both = np.stack([said["encoded"], said["category_prior"]])
        drawn = resample_metrics(labels, both, items, resamples, impressions=impressions).auc
        ci95 = compare(drawn[:1], drawn[1:])["ci95"]
    return ColdAds(
        rows=len(events),
        items=len(np.unique(items)),
        auc=auc,
        gain=auc["encoded"] - auc["category_prior"],
        ci95=ci95,
        test=f"paired bootstrap over items, {resamples} resamples",
    )
