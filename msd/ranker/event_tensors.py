"""Events as plain tensors, one row per event, to train and serve third-party models. Every row repeats the vectors of
its user and history; `batch_opinions` represents each item of a batch once.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd.contract.rows import RowSide
from msd.ranker.adaptor import Adaptors
from msd.ranker.features import Features

Adapted = Mapping[RowSide, Tensor]


def adapt_all(adaptors: Adaptors, features: Features) -> dict[RowSide, Tensor]:
    """Return every entity's vector in the schema's dimension by side, [n + 1, D]; zeros where there is none."""
    sides: tuple[RowSide, ...] = ("user", "item")
    held = {"user": features.user, "item": features.item}
    with torch.no_grad():
        return {
            side: adaptors.eval().adapt(side, held[side].vectors, held[side].present)
            for side in sides
            if side in adaptors
        }


def event_tensors(features: Features, adapted: Adapted, events: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the schema's tensors [B, …] of B events; `adapted` is the result of `adapt_all`."""
    chosen = torch.from_numpy(events)
    user, item = features.user, features.item
    users, items = user.rows[chosen], item.rows[chosen]
    known = features.knows_user[chosen]
    history = features.history[chosen]
    mask = (history >= 0).float()
    liked = torch.where(history >= 0, history, item.entities.unknown)
    tensors = {
        "user_categorical": user.categorical[users],
        "user_dense": user.dense[chosen],
        "context_categorical": features.context_categorical[chosen],
        "context_dense": features.context_dense[chosen],
        "item_categorical": item.categorical[items],
        "item_dense": item.dense[chosen],
        "history_categorical": item.categorical[liked] * mask.unsqueeze(-1).to(item.categorical.dtype),
        "history_mask": mask,
    }
    if "user" in adapted:
        tensors["user_semantic"] = adapted["user"][users] * known.unsqueeze(-1)
    if "item" in adapted:
        tensors["item_semantic"] = adapted["item"][items]
        tensors["history_semantic"] = adapted["item"][liked] * mask.unsqueeze(-1)
    return {spec.name: tensors[spec.name] for spec in features.schema.tensors}
