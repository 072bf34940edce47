"""LoRA (arXiv 2106.09685) on a student's top layers: few weights, trained with any loss, then merged into the
student's.

Knows the student, not what it is trained for.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from msd.student.encoder import Student


class Lora:
    """Low-rank differences in a student's top layers, inserted in place; all other weights are frozen from here on.

    They start at zero: the student's vectors do not change until the differences are trained. `frozen` is the number of
    layers below them, whose states can be cached.
    """

    def __init__(self, student: Student, rank: int, layers: int) -> None:
        student.requires_grad_(False)
        self.frozen = student.encoder.depth - layers
        self._tuned: list[tuple[nn.Module, str, _LowRank]] = []
        # Every linear map of a layer: those of attention and both of the feed-forward part.
        for layer in student.encoder.bert.encoder.layer[self.frozen :]:
            for module in list(layer.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, nn.Linear):
                        self._tuned.append((module, name, _LowRank(child, rank)))
        for module, name, tuned in self._tuned:
            setattr(module, name, tuned)
        self.weights: dict[str, Tensor] = {
            name: weight for name, weight in student.named_parameters() if weight.requires_grad
        }

    def copy(self) -> dict[str, Tensor]:
        """Return a copy of the differences."""
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def set(self, weights: Mapping[str, Tensor]) -> None:
        """Restore what `copy` returned."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])

    def merge(self) -> None:
        """Add the differences to the student's weights and remove LoRA; weights have their former names."""
        for module, name, tuned in self._tuned:
            setattr(module, name, tuned.merged())
        self._tuned, self.weights = [], {}


class _LowRank(nn.Module):
    """A linear map with a low-rank difference."""

    _SCALE = 2.0

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.base(inputs)
        return output + self._SCALE * linear(linear(inputs, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Add the difference to the map's weight, and return the map."""
        self.base.weight += self._SCALE * self.lora_b @ self.lora_a
        return self.base
