"""LoRA (arXiv 2106.09685) on a student's top layers: few weights, trained with whatever loss, then merged into its own.

Knows the student, not what it is trained for.
"""

from collections.abc import Mapping

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor

from msd.student.encoder import Student

# Every linear map of a layer: those of attention and both of the feed-forward part.
_TARGETS = ("query", "key", "value", "dense")
_ADAPTER = "default"


class Lora:
    """Low-rank differences in a student's top layers, put there in place; all other weights are fixed from here on.

    They begin at zero: the student's vectors stay as they were until the differences are trained. `frozen` is the
    number of layers below them, whose states can be cached.
    """

    def __init__(self, student: Student, rank: int, layers: int) -> None:
        # Dropout stays off, in eval mode, so that vectors made in training are those that will be served.
        student.eval().requires_grad_(False)
        depth = student.encoder.depth
        self.frozen = depth - layers
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=list(_TARGETS),
            layers_to_transform=list(range(self.frozen, depth)),
            layers_pattern="layer",
        )
        self._model = LoraModel(student.encoder.bert, config, _ADAPTER)
        self.weights: dict[str, Tensor] = {
            name: weight for name, weight in student.named_parameters() if weight.requires_grad
        }

    def copy(self) -> dict[str, Tensor]:
        """The differences as they are now."""
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def set(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over what `copy` returned."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])

    def merge(self) -> None:
        """Adds the differences to the student's weights and takes LoRA out: its parts are named as before."""
        self._model.merge_and_unload()
        self.weights = {}
