"""What a service loses that must score with less: the metrics of a model from whose inputs something is taken away.

A score depends on its own row alone, so that each rung is predicted once for all rows, and a share of them mixed in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from msd.ranker.features import Features, SideFeatures
from msd.ranker.metrics import Labels, Probabilities, measure_pooled

SHARES = (0.0, 0.1, 0.5, 1.0)


def degraded(features: Features) -> Iterator[tuple[str, Features]]:
    """What the rows look like on each rung, by its name; a model without vectors has none to lose.

    "user unknown" keeps the history, as where a request brings it; without history nothing is known of the user.
    """
    yield "item unknown", replace(features, item=_unknown(features.item))
    if features.schema.semantic("item"):
        yield "item without vector", replace(features, item=_without_vectors(features.item))
    stranger = replace(features, user=_unknown(features.user))
    yield "user unknown", stranger
    yield "user unknown, no history", replace(stranger, history=torch.full_like(features.history, -1))


def degradation_curves(
    labels: Labels, whole: Probabilities, rungs: Mapping[str, Probabilities], seed: int
) -> dict[str, list[dict[str, float]]]:
    """By rung, the metrics with 0, 10, 50 and 100 % of the rows on it: probabilities [n] as they are, and on each rung.

    The same rows, drawn at random, fall on every rung, and those of a smaller share are among those of a greater.
    """
    place = np.random.default_rng(seed).permutation(len(labels))
    return {
        name: [
            {"share": share, **measure_pooled(labels, np.where(place < share * len(labels), fallen, whole))}
            for share in SHARES
        ]
        for name, fallen in rungs.items()
    }


def _unknown(side: SideFeatures) -> SideFeatures:
    """Every event's user or item is the unknown one, as the contract encodes it."""
    return replace(
        side,
        rows=torch.full_like(side.rows, side.entities.unknown),
        dense=side.unknown_dense.expand_as(side.dense),
    )


def _without_vectors(side: SideFeatures) -> SideFeatures:
    """Every event's item is a twin of its own that has no vector; histories keep the items that have one."""
    held = side.entities
    count = held.unknown
    twins = replace(
        held,
        ids=held.ids * 2,
        categorical=np.concatenate([held.categorical[:count], held.categorical]),
        numeric=np.concatenate([held.numeric[:count], held.numeric]),
    )
    dense = side.dense.clone()
    dense[:, -1] = 0.0  # the last column says whether there is a vector
    return replace(
        side,
        entities=twins,
        rows=side.rows + count,
        categorical=torch.from_numpy(twins.categorical),
        dense=dense,
        vectors=torch.cat([side.vectors[:count], torch.zeros_like(side.vectors)]),
        present=torch.cat([side.present[:count], torch.zeros_like(side.present)]),
    )
