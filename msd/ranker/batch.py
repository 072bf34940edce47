"""Logits of rows of features: what a service would assemble of them, altogether or without what training hides."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.schema import OUTCOME_FEATURES, STATE_FEATURES, FeatureSchema
from msd.ranker.adaptor import Adaptors
from msd.ranker.calibrate import Calibrator
from msd.ranker.embedding import is_id
from msd.ranker.features import Features, SideFeatures
from msd.ranker.model import WITH_CONVERSIONS, Ranker, RankerConfig
from msd.ranker.networks import new_network
from msd.ranker.taste import PARTS

_TASTE_ROWS = 128


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
) -> list[Tensor]:
    """Return `Ranker.opinions` of B events; only the network's logits have gradients."""
    chosen = torch.from_numpy(events).to(features.labels.device)
    user_rows, user_dense = _rows_and_dense(features.user, chosen, corruption, rng)
    item_rows, item_dense = _rows_and_dense(features.item, chosen, corruption, rng)
    tensors = {
        "context_categorical": features.context_categorical[chosen],
        "context_dense": features.context_dense[chosen],
        "user_categorical": features.user.categorical[user_rows],
        "user_dense": user_dense,
        "item_categorical": features.item.categorical[item_rows],
        "item_dense": item_dense,
    }
    altered = item_rows != features.item.rows[chosen]
    if corruption is not None and rng is not None:
        _make_new(features, tensors, torch.from_numpy(rng.random(len(events)) < corruption.new_item).to(chosen.device))
    if "item" in model.adaptors:
        kept = _kept(item_rows, corruption, rng)
        present = features.item.present[item_rows] & kept
        tensors["item_semantic"] = model.adaptors.adapt("item", features.item.vectors[item_rows], present)
        # The last dense column says whether there is a vector.
        tensors["item_dense"][:, -1] *= present
        altered = altered | ~kept
    if "user" in model.adaptors:
        known = features.user.present[user_rows] & features.knows_user[chosen] & _kept(chosen, corruption, rng)
        tensors["user_semantic"] = model.adaptors.adapt("user", features.user.vectors[user_rows], known)
        tensors["user_dense"][:, -1] *= known
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.shape[-1]}
    if isinstance(model.ranker, Ranker):
        return model.ranker.opinions(tensors, _taste(model, features, chosen, tensors, altered))
    return [model.ranker(tensors | _history(model, features, chosen))]


def _taste(
    model: TrainedRanker, features: Features, chosen: Tensor, tensors: dict[str, Tensor], altered: Tensor
) -> Tensor | None:
    """Return the taste's parts [B, 3] of events; those computed before, unless the item is `altered` [B]."""
    assert isinstance(model.ranker, Ranker), "baselines have no taste"
    if model.ranker.taste is None:
        return None
    anew = altered.nonzero().squeeze(1) if features.taste is not None else torch.arange(len(chosen))
    parts = torch.zeros(len(chosen), len(PARTS)) if features.taste is None else features.taste[chosen]
    if len(anew):
        of_items = {name: tensor[anew] for name, tensor in tensors.items() if name.startswith("item")}
        parts[anew] = model.ranker.taste(of_items | _history(model, features, chosen[anew]))
    return parts


def _history(model: TrainedRanker, features: Features, chosen: Tensor) -> dict[str, Tensor]:
    """Return the tensors of B events' histories."""
    history, outcomes = features.history[chosen], features.history_outcomes[chosen]
    rows = torch.where(history >= 0, history, features.item.entities.unknown)
    tensors = {
        "history_mask": (outcomes[..., OUTCOME_FEATURES.index("clicks")] > 0).float(),
        "history_outcomes": outcomes,
        "history_categorical": features.item.categorical[rows],
    }
    if "item" in model.adaptors:
        distinct, places = torch.unique(rows, return_inverse=True)
        adapted = model.adaptors.adapt("item", features.item.vectors[distinct], features.item.present[distinct])
        tensors["history_semantic"] = adapted[places]
    return tensors


@torch.no_grad()
def with_taste(model: TrainedRanker, features: Features) -> Features:
    """Return the features with the taste of all events, whose scales and vectors training leaves as they are."""
    model.eval()
    every = torch.arange(len(features.labels))
    return replace(features, taste=torch.cat([taste_of(model, features, rows) for rows in every.split(_TASTE_ROWS)]))


def taste_of(model: TrainedRanker, features: Features, chosen: Tensor) -> Tensor:
    """Return the taste's parts [B, 3] of events, with gradients for its scales."""
    assert isinstance(model.ranker, Ranker) and model.ranker.taste is not None
    tensors = _history(model, features, chosen)
    rows = features.item.rows[chosen]
    tensors["item_categorical"] = features.item.categorical[rows]
    if "item" in model.adaptors:
        present = features.item.present[rows]
        tensors["item_semantic"] = model.adaptors.adapt("item", features.item.vectors[rows], present)
    parts: Tensor = model.ranker.taste(tensors)
    return parts


def batch_loss(
    model: TrainedRanker,
    features: Features,
    events: NDArray[np.int64],
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return the network's loss on B events: of clicks and, with conversions, of converted clicks (ESMM, eq. 5)."""
    opinions = batch_opinions(model, features, events, corruption, rng)
    loss = features.loss_of(opinions[0], events)
    if not model.has_conversions:
        return loss
    return loss + features.loss_of(both(opinions[0], opinions[-1]), events, of="conversions")


def both(logits: Tensor, others: Tensor) -> Tensor:
    """Return the logits of the product of two probabilities, from theirs: 1 / (σ(a) σ(b)) = 1 + e⁻ᵃ + e⁻ᵇ + e⁻⁽ᵃ⁺ᵇ⁾."""
    return -torch.logsumexp(torch.stack([-logits, -others, -logits - others]), 0)


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
