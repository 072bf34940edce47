"""A trained ranker, and its logits of rows, assembled as a service would; training hides some of their inputs."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.rows import RowSide
from msd.contract.schema import OUTCOME_FEATURES, STATE_FEATURES, FeatureSchema
from msd.ranker.adaptor import Adaptors
from msd.ranker.arrays import chunks
from msd.ranker.calibrate import Calibrator
from msd.ranker.embedding import is_id
from msd.ranker.features import Features, SideFeatures
from msd.ranker.model import Opinions, Ranker, RankerConfig
from msd.ranker.networks import Baseline, Content, DcnV2, DeepFm, Din, LogisticRegression
from msd.ranker.paper import Paper
from msd.ranker.taste import PARTS, Taste

_TASTE_ROWS = 128
Network = Ranker | Baseline
_BASELINES: dict[str, type[Baseline]] = {
    "paper": Paper,
    "lr": LogisticRegression,
    "content": Content,
    "deepfm": DeepFm,
    "din": Din,
    "dcnv2": DcnV2,
}


def new_network(schema: FeatureSchema, config: RankerConfig, conversions: bool = False) -> Network:
    """Return an untrained network, with weights from torch's generator. Only MSD's own has a head for conversions."""
    if config.network == "msd":
        return Ranker(schema, config, conversions)
    return _BASELINES[config.network](schema, config)


class TrainedRanker(nn.Module):
    """Ranker, its adaptors by side, and the calibration of its logits; scores are sigmoids of calibrated logits.

    `has_conversions`: whether it has a second head, for conversions of clicks, with its own calibration. `lora`: while
    the student is trained with it, what changes the student's weights (`msd.training.end_to_end`).
    """

    def __init__(self, schema: FeatureSchema, config: RankerConfig, vector_dim: int, conversions: bool = False) -> None:
        super().__init__()
        self.schema = schema
        self.config = config
        self.has_conversions = conversions and config.network == "msd"
        self.ranker = new_network(schema, config, conversions)
        self.adaptors = Adaptors(schema, vector_dim)
        self.calibrator = Calibrator()
        self.lora: nn.Module | None = None
        if self.has_conversions:
            self.conversion_calibrator = Calibrator()


@dataclass(frozen=True)
class Corruption:
    """Shares of rows in which training hides inputs, as preparation for serving without them.

    Counts of the user and of the item are aged, the user or item is wholly unknown, a vector is missing, or the item is
    new: without ID and counts. An unknown user has no history either, as an anonymous user's request.
    """

    aged_user: float = 0.5
    aged_item: float = 0.3
    unknown: float = 0.03
    without_vector: float = 0.03
    new_item: float = 0.03


class Hiding(NamedTuple):
    """What draws the inputs to hide; without it, nothing is hidden."""

    shares: Corruption
    rng: np.random.Generator


def batch_opinions(
    model: TrainedRanker, features: Features, events: NDArray[np.int64], hiding: Hiding | None = None
) -> Opinions:
    """Return `Ranker.opinions` of B events; only the network's logits have gradients."""
    chosen = torch.from_numpy(events).to(features.labels.device)
    tensors, kept = _without_histories(features, chosen, hiding)
    if isinstance(model.ranker, Ranker):
        if model.ranker.crosses and model.ranker.crosses.repeats and not model.training:
            tensors |= _history_indices(features, chosen)
        return model.ranker.opinions(tensors, _taste(model.ranker, features, chosen, kept))
    return Opinions(model.ranker(tensors | history_tensors(features, chosen, kept[:, 0])))


def event_tensors(features: Features, events: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the schema's tensors [B, …] of B events."""
    chosen = torch.from_numpy(events)
    tensors, _ = _without_histories(features, chosen, None)
    tensors |= history_tensors(features, chosen)
    return {spec.name: tensors[spec.name] for spec in features.schema.tensors}


def _without_histories(features: Features, chosen: Tensor, hiding: Hiding | None) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors of B events, without their histories, and which parts of the taste are kept [B, 2]: none of a
    hidden user, and the mood alone where the item is not as it was."""
    user_rows, user_dense = _rows_and_dense(features.user, chosen, hiding)
    item_rows, item_dense = _rows_and_dense(features.item, chosen, hiding)
    is_known = (user_rows == features.user.rows[chosen]) & (user_rows != features.user.entities.unknown)
    is_same = item_rows == features.item.rows[chosen]
    tensors = {
        "context_categorical": features.context_categorical[chosen],
        "context_dense": features.context_dense[chosen],
        "user_categorical": features.user.categorical[user_rows],
        "user_dense": user_dense,
        "item_categorical": features.item.categorical[item_rows],
        "item_dense": item_dense,
    }
    if hiding:
        new = hiding.rng.random(len(chosen)) < hiding.shares.new_item
        _make_new(features, tensors, torch.from_numpy(new).to(chosen.device))
    sides: tuple[tuple[RowSide, Tensor], ...] = (("user", user_rows), ("item", item_rows))
    for side, rows in sides:
        if side not in features.adapted:
            continue
        kept = features.knows_user[chosen] if side == "user" else torch.ones_like(is_same)
        if hiding:
            drawn = hiding.rng.random(len(rows)) >= hiding.shares.without_vector
            kept = kept & torch.from_numpy(drawn).to(kept.device)
        if side == "item":
            is_same = is_same & kept
        tensors[f"{side}_semantic"] = features.adapted[side][rows] * kept.unsqueeze(-1)
        # The last dense column says whether there is a vector.
        tensors[f"{side}_dense"][:, -1] *= kept
    return tensors, torch.stack([is_known, is_known & is_same], -1)


def _taste(ranker: Ranker, features: Features, chosen: Tensor, kept: Tensor) -> Tensor | None:
    """Return the taste's parts [B, 2] of events that are `kept` [B, 2], 0 for the others."""
    if ranker.taste is None:
        return None
    parts = taste_of(ranker.taste, features, chosen) if features.taste is None else features.taste[chosen]
    return parts * kept


def _items(features: Features, rows: Tensor, prefix: str) -> dict[str, Tensor]:
    """Return the categories and vectors of items by their rows [...]."""
    tensors = {f"{prefix}_categorical": features.item.categorical[rows]}
    if "item" in features.adapted:
        tensors[f"{prefix}_semantic"] = features.adapted["item"][rows]
    return tensors


def history_tensors(features: Features, chosen: Tensor, is_known: Tensor | None = None) -> dict[str, Tensor]:
    """Return the tensors of B events' histories by name; empty ones for users that are not known [B]."""
    history, outcomes = features.history[chosen], features.history_outcomes[chosen]
    if is_known is not None:
        history = torch.where(is_known[:, None], history, -1)
        outcomes = outcomes * is_known[:, None, None]
    rows = torch.where(history >= 0, history, features.item.entities.unknown)
    clicked = (outcomes[..., OUTCOME_FEATURES.index("clicks")] > 0).float()
    return {"history_mask": clicked, "history_outcomes": outcomes, **_items(features, rows, "history")}


def taste_of(taste: Taste, features: Features, chosen: Tensor) -> Tensor:
    """Return the taste's parts [B, 2] of events; few at a time, so that their histories stay in the caches."""
    parts = []
    for rows in torch.split(chosen, _TASTE_ROWS):
        items = _items(features, features.item.rows[rows], "item")
        parts.append(taste(items | history_tensors(features, rows)))
    return torch.cat(parts)


@torch.no_grad()
def with_taste(taste: Taste, features: Features, events: NDArray[np.int64]) -> Features:
    """Return the features with the taste of some events, NaN for the others: no training changes it any more."""
    parts = torch.from_numpy(features.arrays.zeros((len(features.labels), len(PARTS)), np.float32))
    parts = parts.to(features.labels.device).fill_(torch.nan)
    for place in chunks(len(events)):
        chosen = torch.from_numpy(events[place]).to(parts.device)
        parts[chosen] = taste_of(taste, features, chosen)
    return replace(features, taste=parts)


def batch_loss(model: TrainedRanker, features: Features, events: NDArray[np.int64], hiding: Hiding) -> Tensor:
    """Return the network's loss on B events: of clicks and, with conversions, of converted clicks (ESMM, eq. 5).

    A conversion that has not come yet is not seen: what is seen has the probability of a converted click times the
    share that has arrived, the likelihood of Chapelle (KDD 2014) with delays of any distribution.
    """
    opinions = batch_opinions(model, features, events, hiding)
    loss = features.loss_of(opinions.network, events)
    if opinions.conversion is None:
        return loss
    converted = both(opinions.network, opinions.conversion)
    if features.arrived is not None:
        converted = both(converted, torch.logit(features.arrived[torch.from_numpy(events)]).expand_as(converted))
    return loss + features.loss_of(converted, events, of="conversions")


def both(logits: Tensor, others: Tensor) -> Tensor:
    """Return the logits of the product of two probabilities, from theirs: 1 / (σ(a) σ(b)) = 1 + e⁻ᵃ + e⁻ᵇ + e⁻⁽ᵃ⁺ᵇ⁾."""
    return -torch.logsumexp(torch.stack([-logits, -others, -logits - others]), 0)


def count_tensors(features: Features, events: NDArray[np.int64], hiding: Hiding | None = None) -> dict[str, Tensor]:
    """Return the count model's inputs for B events, by name, [B, …]."""
    chosen = torch.from_numpy(events).to(features.labels.device)
    return {
        "user_dense": _rows_and_dense(features.user, chosen, hiding)[1],
        "item_dense": _rows_and_dense(features.item, chosen, hiding)[1],
        "context_dense": features.context_dense[chosen],
    }


def index_tensors(features: Features, events: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return what crosses read of B events, by name, [B, …]: all indices, items' vectors, and the outcomes of
    histories."""
    chosen = torch.from_numpy(events).to(features.labels.device)
    return {
        **_items(features, features.item.rows[chosen], "item"),
        "user_categorical": features.user.categorical[features.user.rows[chosen]],
        "context_categorical": features.context_categorical[chosen],
        **_history_indices(features, chosen),
    }


def _history_indices(features: Features, chosen: Tensor) -> dict[str, Tensor]:
    history = features.history[chosen]
    rows = torch.where(history >= 0, history, features.item.entities.unknown)
    held = features.item.categorical[rows]
    return {"history_categorical": held, "history_outcomes": features.history_outcomes[chosen]}


def _rows_and_dense(side: SideFeatures, chosen: Tensor, hiding: Hiding | None) -> tuple[Tensor, Tensor]:
    rows, dense = side.rows[chosen], side.dense[chosen]
    if not hiding:
        return rows, dense
    shares, rng = hiding
    draw = torch.from_numpy(rng.random((2, len(chosen)))).to(chosen.device)
    share = shares.aged_user if side.entities.side == "user" else shares.aged_item
    replica = torch.from_numpy(rng.integers(len(side.aged_dense), size=len(chosen))).to(chosen.device)
    dense = torch.where((draw[0] < share).unsqueeze(-1), side.aged_dense[replica, chosen], dense)
    unknown = draw[1] < shares.unknown
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
