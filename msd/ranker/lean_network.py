"""Lean network: a `Ranker` without work per pair of candidate and history item.

The history enters as its mean, computed once per request; the rest of a candidate's score is linear.
"""

import torch
from torch import Tensor, nn

from msd.contract.schema import FeatureSchema
from msd.ranker.model import BLOCKS, Ranker, RankerConfig, Tensors


class LeanRanker(Ranker):
    """One linear layer over fields, numbers and vectors of both sides and the target's agreement with the mean of the
    history; beside it the user's affinity and the count model, as in `Ranker`."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig, conversions: bool = False) -> None:
        super().__init__(schema, config, conversions)
        del self.overlaps, self.attend
        width = sum(self._width(schema, side, config) for side in self.sides) + config.interest + 1 + self.blocks
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)
        self.conversion = nn.Linear(width, 1) if conversions else None

    def _network(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> list[Tensor]:
        n, mask = target_ND.shape[0], tensors["history_mask"]
        sides = {side: self._side(tensors, side).expand(n, -1) for side in self.sides}
        parts = [*sides.values(), torch.log1p(mask.sum(1, keepdim=True)).expand(n, -1) / 2]
        parts.append(target_ND * _mean(history_BLD, mask))
        if self.blocks:
            # All vectors have the same length, so the mean cosine is the product with the mean vector.
            pairs = zip(
                _mean(tensors["history_semantic"], mask).chunk(BLOCKS, -1),
                tensors["item_semantic"].chunk(BLOCKS, -1),
                strict=True,
            )
            parts += [(of_history * target).sum(-1, keepdim=True) / target.shape[-1] for of_history, target in pairs]
        x = self.norm(torch.cat(parts, -1))
        logits: Tensor = self.head(x).squeeze(-1)
        if self.affinity is not None:
            logits = logits + self.affinity(tensors["user_categorical"][:, self.user_id], self._side(tensors, "item"))
        return [logits] if self.conversion is None else [logits, self.conversion(x).squeeze(-1)]


def _mean(history_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean of a history's vectors [B, D]; zeros if it is empty."""
    return (history_BLD * mask_BL.unsqueeze(-1)).sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1.0)
