"""The CTR model: embeddings ⊕ dense ⊕ semantics, target attention over the history, cross layers and an MLP.

Written once, plainly; the user's side has batch 1 (serving) or N (training), the candidates' always N. It knows the
schema's tensors, not where they come from.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from msd.contract.schema import SIDES, Categorical, FeatureSchema, Side

Tensors = Mapping[str, Tensor]


class RankerConfig(BaseModel):
    """Which network, its widths and its dropout rates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["msd", "lr", "deepfm", "din", "dcnv2"] = "msd"
    embedding: int = 16
    interest: int = 32
    cross_layers: int = 2
    cross_rank: int = 32
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    id_dropout: float = 0.5


class SideEmbedding(nn.Module):
    """One table a field; a bag is the mean of its values; index 0, missing, is learned for single values."""

    def __init__(self, schema: FeatureSchema, side: Side, config: RankerConfig) -> None:
        super().__init__()
        self.fields = schema.indexed(side)
        self.places = [schema.columns[field.name] for field in self.fields]
        self.tables = nn.ModuleDict({field.name: nn.Embedding(field.size, config.embedding) for field in self.fields})
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.02)
        self.id_dropout = nn.Dropout(config.id_dropout)
        self.width = config.embedding * len(self.fields)

    def forward(self, categorical: Tensor) -> Tensor:
        """[..., C] int32 → [..., width]."""
        parts = []
        for field, place in zip(self.fields, self.places, strict=True):
            index = categorical[..., place]
            embedded = self.tables[field.name](index)
            if isinstance(field, Categorical):
                one = embedded.squeeze(-2)
                parts.append(self.id_dropout(one) if field.is_id else one)
            else:
                held = (index != 0).unsqueeze(-1).to(embedded.dtype)
                parts.append((embedded * held).sum(-2) / held.sum(-2).clamp(min=1.0))
        return torch.cat(parts, -1)


class TargetAttention(nn.Module):
    """The history as the target sees it (DIN, arXiv 1706.06978); sigmoid weights keep how much of it is alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(3 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, history_BLD: Tensor, mask_BL: Tensor, target_ND: Tensor) -> Tensor:
        """History of batch 1 or N and N targets → [N, D]."""
        n, length = target_ND.shape[0], history_BLD.shape[1]
        history_NLD = history_BLD.expand(n, -1, -1)
        target_NLD = target_ND.unsqueeze(1).expand(-1, length, -1)
        pair = torch.cat([history_NLD, target_NLD, history_NLD * target_NLD], -1)
        weight_NL = torch.sigmoid(self.weigh(pair).squeeze(-1)) * mask_BL
        return (weight_NL.unsqueeze(-1) * history_NLD).sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1.0)


class LowRankCross(nn.Module):
    """x0 ⊙ U(V x) + x: explicit interactions of bounded degree (DCN-V2, arXiv 2008.13535, eq. 2)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[N, W], [N, W] → [N, W]."""
        crossed: Tensor = x0 * self.up(self.down(x)) + x
        return crossed


class Ranker(nn.Module):
    """The schema's tensors → [N] logits of a click."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        widths = {side: self._width(schema, side, config) for side in SIDES}
        self.sides: list[Side] = [side for side in SIDES if widths[side]]
        self.embed = nn.ModuleDict(
            {side: SideEmbedding(schema, side, config) for side in SIDES if schema.indexed(side)}
        )
        semantic = schema.semantic_width("item")
        self.represent = nn.Linear(config.embedding * len(schema.indexed("item")) + semantic, config.interest)
        self.attend = TargetAttention(config.interest)
        width = sum(widths.values()) + 2 * config.interest + (2 if semantic else 0)
        self.norm = nn.LayerNorm(width)
        self.cross = nn.ModuleList(LowRankCross(width, config.cross_rank) for _ in range(config.cross_layers))
        layers: list[nn.Module] = []
        for before, after in zip((width, *config.hidden[:-1]), config.hidden, strict=True):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.deep = nn.Sequential(*layers)
        self.head = nn.Linear(width + config.hidden[-1], 1)

    @staticmethod
    def _width(schema: FeatureSchema, side: Side, config: RankerConfig) -> int:
        return config.embedding * len(schema.indexed(side)) + schema.dense_width(side) + schema.semantic_width(side)

    def forward(self, tensors: Tensors) -> Tensor:
        """Logits [N], before calibration."""
        target = self.represent_items(tensors["item_categorical"], tensors.get("item_semantic"))
        history = self.represent_items(tensors["history_categorical"], tensors.get("history_semantic"))
        return self.score(tensors, target, history)

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """What attention sees of items: [..., C] and [..., S] → [..., interest]."""
        embedded = self.embed["item"](categorical)
        represented: Tensor = torch.tanh(
            self.represent(embedded if semantic is None else torch.cat([embedded, semantic], -1))
        )
        return represented

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Logits [N], given what attention sees of targets and history."""
        n, mask = target_ND.shape[0], tensors["history_mask"]
        parts = [self._side(tensors, side).expand(n, -1) for side in self.sides]
        parts += [target_ND, self.attend(history_BLD, mask, target_ND)]
        if "item_semantic" in tensors:
            parts.append(likeness(tensors["history_semantic"], mask, tensors["item_semantic"]))
        x0 = self.norm(torch.cat(parts, -1))
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        logits: Tensor = self.head(torch.cat([x, self.deep(x0)], -1)).squeeze(-1)
        return logits

    def _side(self, tensors: Tensors, side: Side) -> Tensor:
        parts = [self.embed[side](tensors[f"{side}_categorical"])] if side in self.embed else []
        parts += [tensors[name] for name in (f"{side}_dense", f"{side}_semantic") if name in tensors]
        return torch.cat(parts, -1)


def likeness(history_BLD: Tensor, mask_BL: Tensor, target_ND: Tensor) -> Tensor:
    """Mean and greatest cosine of each target's vector to those of the history → [N, 2]; 0 where there is none."""
    history_BLD = nn.functional.normalize(history_BLD, dim=-1, eps=1e-6)
    target_ND = nn.functional.normalize(target_ND, dim=-1, eps=1e-6)
    cosine_NL = torch.matmul(history_BLD, target_ND.unsqueeze(-1)).squeeze(-1) * mask_BL
    mean_N = cosine_NL.sum(1) / mask_BL.sum(1).clamp(min=1.0)
    # Padding must not stand in for an item of cosine 0: a whole history may be less alike than that.
    greatest_N = cosine_NL.masked_fill(mask_BL == 0, -1.0).amax(1) * mask_BL.amax(1)
    return torch.stack([mean_N, greatest_N], -1)
