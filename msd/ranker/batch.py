"""Rows of features → the ranker's tensors, with vectors passed through the adaptors, which are trained with it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.rows import RowSide
from msd.contract.schema import FeatureSchema
from msd.ranker.features import Features, SideFeatures
from msd.ranker.model import Ranker, RankerConfig


class Adaptor(nn.Module):
    """A student's vector → the schema's dimension, each component of the order of 1 (the paper's Feature Adaptor)."""

    def __init__(self, vector_dim: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(vector_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """[n, V] → [n, D]."""
        adapted: Tensor = self.norm(self.project(vectors))
        return adapted


class TrainedRanker(nn.Module):
    """The ranker, its adaptors by side, and the calibration of its logits: sigmoid(slope · logit + offset)."""

    slope: Tensor
    offset: Tensor

    def __init__(self, schema: FeatureSchema, config: RankerConfig, vector_dim: int) -> None:
        super().__init__()
        self.schema = schema
        self.config = config
        self.ranker = Ranker(schema, config)
        self.adaptors = nn.ModuleDict()
        for side in ("user", "item"):
            if semantic := schema.semantic(side):
                self.adaptors[side] = Adaptor(vector_dim, semantic.dim)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def adapt(self, side: RowSide, vectors: Tensor, present: Tensor) -> Tensor:
        """[n, V] vectors and whether each is there [n] → [n, D], zeros where it is not."""
        adapted: Tensor = self.adaptors[side](vectors)
        return adapted * present.unsqueeze(-1)


@dataclass(frozen=True)
class Corruption:
    """What training hides so that serving with less is trained for: the share of rows with aged counts, and of rows
    whose user or item is wholly unknown."""

    aged: float = 0.5
    unknown: float = 0.03


def batch_tensors(
    model: TrainedRanker,
    features: Features,
    events: NDArray[np.int64],
    corruption: Corruption | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Tensor]:
    """The ranker's inputs for B events, each with its own user: every tensor has batch B."""
    chosen = torch.from_numpy(events)
    tensors = {
        "context_categorical": features.context_categorical[chosen],
        "context_dense": features.context_dense[chosen],
    }
    entity_rows = {}
    for name, side in (("user", features.user), ("item", features.item)):
        entity_rows[name], tensors[f"{name}_dense"] = _rows_and_dense(side, chosen, corruption, rng)
        tensors[f"{name}_categorical"] = side.categorical[entity_rows[name]]
    history = features.history[chosen]
    mask = (history >= 0).float()
    history = torch.where(history >= 0, history, features.item.entities.unknown)
    tensors["history_mask"] = mask
    tensors["history_categorical"] = features.item.categorical[history]
    if "item" in model.adaptors:
        items = model.adapt("item", features.item.vectors, features.item.present)
        tensors["item_semantic"] = items[entity_rows["item"]]
        tensors["history_semantic"] = items[history]
        known = features.user.present[entity_rows["user"]] & features.knows_user[chosen]
        tensors["user_semantic"] = model.adapt("user", features.user.vectors[entity_rows["user"]], known)
    return {name: tensor for name, tensor in tensors.items() if name in model.ranker.names}


def _rows_and_dense(
    side: SideFeatures, chosen: Tensor, corruption: Corruption | None, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    rows, dense = side.rows[chosen], side.dense[chosen]
    if corruption is None or rng is None:
        return rows, dense
    draw = torch.from_numpy(rng.random((2, len(chosen))))
    dense = torch.where((draw[0] < corruption.aged).unsqueeze(-1), side.aged_dense[chosen], dense)
    unknown = draw[1] < corruption.unknown
    rows = torch.where(unknown, side.entities.unknown, rows)
    return rows, torch.where(unknown.unsqueeze(-1), side.unknown_dense, dense)
