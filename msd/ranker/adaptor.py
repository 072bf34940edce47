"""Adaptors, one per side, from the student's vectors to the schema's: their principal components.

Know vectors of texts, not their items or users.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from msd.contract.rows import ROW_SIDES
from msd.contract.schema import FeatureSchema
from msd.contract.words import BagOfWords
from msd.ranker.features import Features
from msd.ranker.taste import BLOCKS
from msd.student.record import HEADS


class Adaptor(nn.Module):
    """Projection of a student's vector to the schema's dimension, components of order 1 (the paper's Feature Adaptor).

    One block is made of the texts' meaning (explicit ‖ implicit), the other of the teacher's words. Each block has the
    length √D that the taste's cosines require. Training it further gains nothing there (decision 58); the paper's
    network trains it.
    """

    def __init__(self, vector_dim: int, dim: int) -> None:
        super().__init__()
        meaning = HEADS["words"].start
        self.widths = [meaning, vector_dim - meaning]
        dims = [len(block) for block in torch.zeros(dim).chunk(BLOCKS)]
        self.project = nn.ModuleList(nn.Linear(*shape) for shape in zip(self.widths, dims, strict=False))
        self.norm = nn.ModuleList(nn.LayerNorm(block, elementwise_affine=False) for block in dims)

    def start_at(self, vectors: Tensor) -> None:
        """Initialise with the principal components of [n, V] vectors, so that similarity is meaningful from the
        start."""
        for project, part in zip(self.project, torch.split(vectors, self.widths, 1), strict=False):
            assert isinstance(project, nn.Linear)
            mean = part.mean(0)
            _, size, directions = torch.linalg.svd(part - mean, full_matrices=False)
            count = min(project.out_features, len(directions))
            scale = (len(part) * count / (size[:count] ** 2).sum().clamp(min=1e-6)).sqrt()
            with torch.no_grad():
                project.weight.zero_()
                project.weight[:count] = scale * directions[:count]
                project.bias.copy_(-project.weight @ mean)

    def of_words(self, bag: BagOfWords) -> BagOfWords:
        """Return the bag of words with this adaptor's map to the words block."""
        words = self.project[-1]
        assert isinstance(words, nn.Linear)
        weight, bias = (value.detach().cpu().numpy() for value in (words.weight, words.bias))
        return replace(bag, weight=weight, bias=bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors: [n, V] → [n, D]."""
        parts = zip(self.project, self.norm, torch.split(vectors, self.widths, 1), strict=False)
        return torch.cat([norm(project(part)) for project, norm, part in parts], -1)


class Adaptors(nn.ModuleDict):
    """Adaptors of the sides with semantics."""

    def __init__(self, schema: FeatureSchema, vector_dim: int) -> None:
        semantics = {side: schema.semantic(side) for side in ROW_SIDES}
        super().__init__({side: Adaptor(vector_dim, one.dim) for side, one in semantics.items() if one})
        self.requires_grad_(False)

    def start_at(self, features: Features) -> None:
        """Initialise all with the principal components of the features' vectors."""
        for side, adaptor in self.items():
            held = features.user if side == "user" else features.item
            if held.present.any():
                assert isinstance(adaptor, Adaptor)
                adaptor.start_at(held.vectors[held.present].cpu())

    def item_words(self, bag: BagOfWords | None) -> BagOfWords | None:
        """Return a bag of words with the map to the words block of items; None without one, or without the other."""
        adaptor = self["item"] if "item" in self else None
        return adaptor.of_words(bag) if bag and isinstance(adaptor, Adaptor) else None

    @torch.no_grad()
    def adapt(self, features: Features) -> Features:
        """Return the features with their adapted vectors; zeros where there is none."""
        sides = zip(ROW_SIDES, (features.user, features.item), strict=True)
        adapted = {side: self[side](held.vectors) * held.present.unsqueeze(-1) for side, held in sides if side in self}
        return replace(features, adapted=adapted)
