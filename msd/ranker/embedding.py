"""Embeddings of a side's categories, bags and IDs; what they make of missing and unknown values."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from msd.contract.schema import SIDES, Bag, Categorical, FeatureSchema, Side
from msd.ranker.shared import length_of

if TYPE_CHECKING:
    from msd.ranker.model import RankerConfig


_SMALL = 64  # values of a field that are counted one by one


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

    def forward(self, categorical: Tensor) -> Tensor:
        """Embed indices: [..., C] int32 → [..., width]."""
        parts = []
        for field, place in zip(self.fields, self.places, strict=True):
            table = self.tables[field.name].get_parameter("weight")
            if not isinstance(field, Categorical):
                bag = categorical[..., place]
                parts.append(summed(bag, _zeroed(table, 1)) / count_values(bag))
            elif field.is_id:
                parts.append(self._id(field, categorical[..., place.start], table))
            else:
                parts.append(nn.functional.embedding(categorical[..., place.start], table))
        return torch.cat(parts, -1)

    def _id(self, field: Categorical, index: Tensor, table: Tensor) -> Tensor:
        """Return an ID's embedding: zeros if unknown. Training hides or thins out the others, because the model must
        also work without IDs."""
        if not self.training:
            return known_rows(index, table, first_known(field))
        known = (index >= first_known(field)).unsqueeze(-1).to(table.dtype)
        known = known * (torch.rand_like(known) >= self.id_hidden).to(known.dtype)
        dropped: Tensor = self.id_dropout(nn.functional.embedding(index, table) * known)
        return dropped


def embeddings(schema: FeatureSchema, config: "RankerConfig") -> nn.ModuleDict:
    """Return the embeddings of each side that has indexed fields."""
    return nn.ModuleDict({side: SideEmbedding(schema, side, config) for side in SIDES if schema.indexed(side)})


def known_rows(indices: Tensor, table: Tensor, first: int) -> Tensor:
    """Return a table's rows, zeros for indices below `first`: [...] → [..., D]."""
    if torch.onnx.is_in_onnx_export():
        return nn.functional.embedding(indices, _zeroed(table, first))
    return nn.functional.embedding(indices, table) * (indices >= first).unsqueeze(-1).to(table.dtype)


def _zeroed(table: Tensor, first: int) -> Tensor:
    """Return a table with zeros in the rows below `first`."""
    return nn.functional.pad(table[first:], (0, 0, first, 0))


def summed(bags: Tensor, table: Tensor) -> Tensor:
    """Return the sum of a table's rows at each bag of indices: [..., V] → [..., D]."""
    last, values = bags.dim() - 1, length_of(bags, -1)
    if values == 1:
        return nn.functional.embedding(bags[..., 0], table)
    if table.shape[1] < len(table) <= _SMALL:
        # The counts of all values are the same for every table of a field: runtimes make them once.
        return summed(bags, torch.eye(len(table), dtype=table.dtype, device=table.device)) @ table
    rows = nn.functional.embedding(bags.permute(last, *range(last)), table)
    # Runtimes multiply by ones several times faster than they sum.
    total = rows.new_ones(1, values) @ rows.flatten(1)
    return total.reshape(-1, *bags.shape[1:-1], table.shape[1])


def count_values(bags: Tensor) -> Tensor:
    """Return the number of values of each bag of indices, 1 for an empty one: [..., V] → [..., 1]."""
    return bags.clamp(0, 1).float().sum(-1, keepdim=True).clamp(min=1.0)


def is_id(field: Categorical | Bag) -> bool:
    """Return whether the field is the user's or item's own ID."""
    return isinstance(field, Categorical) and field.is_id


def first_known(field: Categorical | Bag) -> int:
    """Return the first index of a known value. Below it are the missing value and, with a vocabulary, unknown ones."""
    return 1 if field.buckets else 2
