"""Logits of rows of features; vectors pass through the adaptors, which are trained with the ranker.

Each item of a batch is represented once, however many histories contain it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.rows import RowSide
from msd.contract.schema import STATE_FEATURES, FeatureSchema
from msd.ranker.adaptor import Adaptors
from msd.ranker.calibrate import Calibrator
from msd.ranker.features import Features, SideFeatures
from msd.ranker.model import WITH_CONVERSIONS, RankerConfig, is_id
from msd.ranker.networks import new_network

Vectors = Callable[[RowSide, Tensor], Tensor]


class TrainedRanker(nn.Module):
    """Ranker, its adaptors by side, and the calibration of its logits; scores are sigmoids of calibrated logits.

    `has_conversions`: whether it has a second head, for conversions of clicks, with its own calibration.
    """

    def __init__(self, schema: FeatureSchema, config: RankerConfig, vector_dim: int, conversions: bool = False) -> None:
        super().__init__()
        self.schema = schema
        self.config = config
        self.has_conversions = conversions and config.network in WITH_CONVERSIONS
        self.ranker = new_network(schema, config, conversions)
        self.adaptors = Adaptors(schema, vector_dim)
        self.calibrator = Calibrator()
        if self.has_conversions:
            self.conversion_calibrator = Calibrator()


@dataclass(frozen=True)
class Corruption:
    """Shares of rows in which training hides inputs, as preparation for serving without them.

    Counts of the user and of the item are aged, the user or item is wholly unknown, a vector is missing, or the item is
    new: without ID and counts.
    """

    aged_user: float = 0.5
    aged_item: float = 0.3
    unknown: float = 0.03
    without_vector: float = 0.03
    new_item: float = 0.03


def batch_opinions(
    model: TrainedRanker,
    features: Features,
    events: NDArray[np.int64],
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
    vectors: Vectors | None = None,
) -> list[Tensor]:
    """Return `Ranker.opinions` of B events; only the network's logits have gradients.

    `vectors` maps the rows [n] of a side's entities to the student's vectors [n, V]; by default the features'.
    """
    vectors = vectors or (lambda side, rows: (features.user if side == "user" else features.item).vectors[rows])
    chosen = torch.from_numpy(events).to(features.labels.device)
    tensors, user_rows, item_rows = inputs_without_vectors(features, chosen, corruption, rng)
    held, places = _distinct(item_rows, features.item.entities.unknown + 1)
    new = None
    if corruption is not None and rng is not None:
        new = torch.from_numpy(rng.random(len(events)) < corruption.new_item).to(chosen.device)
        _make_new(features, tensors, new)
    semantic = None
    if "item" in model.adaptors:
        present = features.item.present[held] & _kept(held, corruption, rng)
        semantic = model.adaptors.adapt("item", vectors("item", held), present)
        by_place = nn.functional.embedding(places, semantic)
        tensors["item_semantic"], tensors["history_semantic"] = by_place[:, 0], by_place[:, 1:]
        # The last dense column says whether there is a vector.
        tensors["item_dense"][:, -1] *= present[places[:, 0]]
    if "user" in model.adaptors:
        known = features.user.present[user_rows] & features.knows_user[chosen] & _kept(chosen, corruption, rng)
        tensors["user_semantic"] = model.adaptors.adapt("user", vectors("user", user_rows), known)
        tensors["user_dense"][:, -1] *= known
    represented = nn.functional.embedding(
        places, model.ranker.represent_items(features.item.categorical[held], semantic)
    )
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.shape[-1]}
    target = represented[:, 0]
    if new is not None:
        # An item is new only for its own row; in others' histories it has its ID.
        nameless = model.ranker.represent_items(tensors["item_categorical"], tensors.get("item_semantic"))
        target = torch.where(new.unsqueeze(-1), nameless, target)
    return model.ranker.opinions(tensors, target, represented[:, 1:])


def batch_loss(
    model: TrainedRanker,
    features: Features,
    events: NDArray[np.int64],
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
    vectors: Vectors | None = None,
) -> Tensor:
    """Return the network's loss on B events: of clicks and, with conversions, of converted clicks (ESMM, eq. 5)."""
    opinions = batch_opinions(model, features, events, corruption, rng, vectors)
    loss = features.loss_of(opinions[0], events)
    if not model.has_conversions:
        return loss
    return loss + features.loss_of(both(opinions[0], opinions[-1]), events, of="conversions")


def both(logits: Tensor, others: Tensor) -> Tensor:
    """Return the logits of the product of two probabilities, from theirs: 1 / (σ(a) σ(b)) = 1 + e⁻ᵃ + e⁻ᵇ + e⁻⁽ᵃ⁺ᵇ⁾."""
    return -torch.logsumexp(torch.stack([-logits, -others, -logits - others]), 0)


def inputs_without_vectors(
    features: Features,
    chosen: Tensor,
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the model's inputs except vectors, by name, [B, …]; and the rows of users [B] and of items, each target
    and its history [B, 1 + L]."""
    user_rows, user_dense = _rows_and_dense(features.user, chosen, corruption, rng)
    item_rows, item_dense = _rows_and_dense(features.item, chosen, corruption, rng)
    history = features.history[chosen]
    known = torch.where(history >= 0, history, features.item.entities.unknown)
    tensors = {
        "context_categorical": features.context_categorical[chosen],
        "context_dense": features.context_dense[chosen],
        "user_categorical": features.user.categorical[user_rows],
        "user_dense": user_dense,
        "item_categorical": features.item.categorical[item_rows],
        "item_dense": item_dense,
        "history_mask": (history >= 0).float(),
        "history_categorical": features.item.categorical[known],
    }
    return tensors, user_rows, torch.cat([item_rows.unsqueeze(1), known], 1)


def count_tensors(
    features: Features,
    events: NDArray[np.int64],
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the count model's inputs for B events, by name, [B, …]."""
    chosen = torch.from_numpy(events).to(features.labels.device)
    return {
        "user_dense": _rows_and_dense(features.user, chosen, corruption, rng)[1],
        "item_dense": _rows_and_dense(features.item, chosen, corruption, rng)[1],
        "context_dense": features.context_dense[chosen],
    }


def _rows_and_dense(
    side: SideFeatures, chosen: Tensor, corruption: Corruption | None, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    rows, dense = side.rows[chosen], side.dense[chosen]
    if corruption is None or rng is None:
        return rows, dense
    draw = torch.from_numpy(rng.random((2, len(chosen)))).to(chosen.device)
    share = corruption.aged_user if side.entities.side == "user" else corruption.aged_item
    replica = torch.from_numpy(rng.integers(len(side.aged_dense), size=len(chosen))).to(chosen.device)
    dense = torch.where((draw[0] < share).unsqueeze(-1), side.aged_dense[replica, chosen], dense)
    unknown = draw[1] < corruption.unknown
    rows = torch.where(unknown, side.entities.unknown, rows)
    return rows, torch.where(unknown.unsqueeze(-1), side.unknown_dense, dense)


def _make_new(features: Features, tensors: dict[str, Tensor], new: Tensor) -> None:
    """Make items new where `new` [B]: without ID and counts."""
    schema = features.schema
    start = schema.numeric_width("item")
    counts = slice(start, start + len(STATE_FEATURES) * bool(schema.state("item")))
    tensors["item_dense"][new, counts] = features.item.unknown_dense[counts]
    for field in schema.indexed("item"):
        if is_id(field):
            tensors["item_categorical"][new, schema.columns[field.name]] = 0


def _kept(rows: Tensor, corruption: Corruption | None, rng: np.random.Generator | None) -> Tensor:
    """Return which of n rows' vectors are kept [n]."""
    if corruption is None or rng is None:
        return torch.ones_like(rows, dtype=torch.bool)
    return torch.from_numpy(rng.random(len(rows)) >= corruption.without_vector).to(rows.device)


def _distinct(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the distinct values of `rows`, all below `count`, and each row's index among them; without sorting."""
    held = (
        torch.zeros(count, dtype=torch.bool, device=rows.device)
        .index_fill_(0, rows.flatten().long(), True)
        .nonzero()
        .squeeze(1)
    )
    place = torch.zeros(count, dtype=torch.int64, device=rows.device)
    place[held] = torch.arange(len(held), device=rows.device)
    return held, place[rows.long()]
