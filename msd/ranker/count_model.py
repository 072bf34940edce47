"""Click prediction from counts alone: an MLP on numbers, click rates, impressions and their ages.

Without IDs, vectors or history it cannot memorise rows. `train_counts` fits it; afterwards its weights are frozen.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from msd.contract.schema import SIDES, FeatureSchema


class CountModel(nn.Module):
    """MLP from the schema's dense tensors to logits [N]."""

    def __init__(self, schema: FeatureSchema, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = {f"{side}_dense": schema.dense_width(side) for side in SIDES}
        self.dense = [name for name, width in widths.items() if width]
        layers: list[nn.Module] = []
        for before, after in pairwise((sum(widths.values()), *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1)).requires_grad_(False)

    def forward(self, tensors: Mapping[str, Tensor], n: int) -> Tensor:
        """Return logits [N]. Tensors of user and context have batch 1 or N, those of candidates N."""
        logits: Tensor = self.layers(torch.cat([tensors[name].expand(n, -1) for name in self.dense], -1))
        return logits.squeeze(-1)
