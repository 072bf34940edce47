"""Embeddings of a side's categories, bags and IDs; what they make of missing and unknown values."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from msd.contract.schema import SIDES, Bag, Categorical, FeatureSchema, Side

if TYPE_CHECKING:
    from msd.ranker.model import RankerConfig


class SideEmbedding(nn.Module):
    """One embedding table per field; a bag is the mean of its values. A missing category has an embedding; a missing or
    unknown ID is zeros."""

    def __init__(self, schema: FeatureSchema, side: Side, config: "RankerConfig") -> None:
        super().__init__()
        self.fields = schema.indexed(side)
        self.places = [schema.columns[field.name] for field in self.fields]
        self.tables = nn.ModuleDict({field.name: nn.Embedding(field.size, config.embedding) for field in self.fields})
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.02)
        self.id_dropout, self.id_hidden = nn.Dropout(config.id_dropout), config.id_hidden
        self.width = config.embedding * len(self.fields)

    def forward(self, categorical: Tensor) -> Tensor:
        """Embed indices: [..., C] int32 → [..., width]."""
        parts = []
        for field, place in zip(self.fields, self.places, strict=True):
            index, table = categorical[..., place], self.tables[field.name].weight
            if isinstance(field, Categorical):
                embedded = summed(index, table)
                parts.append(self._id(field, index, embedded) if field.is_id else embedded)
            else:
                held = nn.functional.pad(table[1:], (0, 0, 1, 0))  # no value is zeros
                parts.append(summed(index, held) / count_values(index))
        return torch.cat(parts, -1)

    def _id(self, field: Categorical, index: Tensor, embedded: Tensor) -> Tensor:
        """Return an ID's embedding: zeros if unknown. Training hides or thins out the others, because the model must
        also work without IDs."""
        known = (index >= first_known(field)).to(embedded.dtype)
        if self.training:
            known = known * (torch.rand_like(known) >= self.id_hidden).to(known.dtype)
        dropped: Tensor = self.id_dropout(embedded * known)
        return dropped


def embeddings(schema: FeatureSchema, config: "RankerConfig") -> nn.ModuleDict:
    """Return the embeddings of each side that has indexed fields."""
    return nn.ModuleDict({side: SideEmbedding(schema, side, config) for side in SIDES if schema.indexed(side)})


def summed(indices: Tensor, table: Tensor) -> Tensor:
    """Return the sum of a table's rows at each bag of indices: [..., V] → [..., D]."""
    # Runtimes sum over the first axis several times faster than over one in the middle.
    last = indices.dim() - 1
    rows = nn.functional.embedding(indices.permute(last, *range(last)), table)
    return rows[0] if indices.shape[-1] == 1 else rows.sum(0)


def count_values(bags: Tensor) -> Tensor:
    """Return the number of values of each bag of indices, 1 for an empty one: [..., V] → [..., 1]."""
    return bags.clamp(max=1).float().sum(-1, keepdim=True).clamp(min=1.0)


def products(rows_NK: Tensor, matrix_BMK: Tensor) -> Tensor:
    """Return the products [N, M] of N rows, each with the rows of its own matrix, or all with those of one."""
    if matrix_BMK.shape[0] == 1:
        # Of one row, a reshape: runtimes are slow with transposed vectors.
        column = matrix_BMK.shape[1] == 1
        return rows_NK @ (matrix_BMK.reshape(-1, 1) if column else matrix_BMK[0].transpose(0, 1))
    return (matrix_BMK @ rows_NK.unsqueeze(-1)).squeeze(-1)


def is_id(field: Categorical | Bag) -> bool:
    """Return whether the field is the user's or item's own ID."""
    return isinstance(field, Categorical) and field.is_id


def first_known(field: Categorical | Bag) -> int:
    """Return the first index of a known value. Below it are the missing value and, with a vocabulary, unknown ones."""
    return 1 if field.buckets else 2
