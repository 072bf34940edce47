"""MSD's CTR model: embeddings ⊕ dense ⊕ semantics ⊕ history features of the target, then cross layers and an MLP.

One implementation: the user's side has batch 1 (serving) or N (training), the candidates' always N. It knows the
schema's tensors, not their source.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from msd.contract.encode import SECONDS_PER_DAY
from msd.contract.schema import SIDES, STATE_FEATURES, Bag, Categorical, FeatureSchema, Side
from msd.ranker.history import SUMMARY, Fusion, Overlap, TargetAttention, cosine, select, summarise

BLOCKS = 2  # blocks of a vector: meaning and words
WITH_CONVERSIONS = ("msd", "lean")
"""Networks that can have a head for conversions."""
Tensors = Mapping[str, Tensor]


class RankerConfig(BaseModel):
    """Architecture, layer widths and dropout rates.

    `hidden` may be empty (no MLP) for `msd`, `lean` and `lr`. `id_hidden`: share of IDs that training hides whole.
    `selected`: number of history items that the Selector takes, None for all. `fusion`: whether to fuse them with the
    target. `affinity`: length of each user's own vector, 0 for none. `counts`: layer widths of the count model beside
    `msd` and `lean`, empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["msd", "lean", "lr", "content", "deepfm", "din", "dcnv2"] = "msd"
    embedding: int = 16
    interest: int = 32
    cross_layers: int = 2
    cross_rank: int = 32
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    id_dropout: float = 0.5
    id_hidden: float = 0.1
    selected: int | None = 5
    fusion: bool = True
    affinity: int = 16
    counts: tuple[int, ...] = (32, 16)

    @model_validator(mode="after")
    def _baselines_are_deep(self) -> Self:
        if not self.hidden and self.network not in (*WITH_CONVERSIONS, "lr"):
            raise ValueError(f"hidden is empty, and the network {self.network!r} is not without an MLP")
        return self


class SideEmbedding(nn.Module):
    """One embedding table per field; a bag is the mean of its values. A missing category has an embedding; a missing or
    unknown ID is zeros."""

    def __init__(self, schema: FeatureSchema, side: Side, config: RankerConfig) -> None:
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
            index = categorical[..., place]
            embedded = self.tables[field.name](index)
            if isinstance(field, Categorical):
                one = embedded.squeeze(-2)
                parts.append(self._id(field, index, one) if field.is_id else one)
            else:
                held = (index != 0).unsqueeze(-1).to(embedded.dtype)
                parts.append((embedded * held).sum(-2) / held.sum(-2).clamp(min=1.0))
        return torch.cat(parts, -1)

    def _id(self, field: Categorical, index: Tensor, embedded: Tensor) -> Tensor:
        """Return an ID's embedding: zeros if unknown. Training hides or thins out the others, because the model must
        also work without IDs."""
        known = (index >= first_known(field)).to(embedded.dtype)
        if self.training:
            known = known * (torch.rand_like(known) >= self.id_hidden).to(known.dtype)
        dropped: Tensor = self.id_dropout(embedded * known)
        return dropped


def embeddings(schema: FeatureSchema, config: RankerConfig) -> nn.ModuleDict:
    """Return the embeddings of each side that has indexed fields."""
    return nn.ModuleDict({side: SideEmbedding(schema, side, config) for side in SIDES if schema.indexed(side)})


def is_id(field: Categorical | Bag) -> bool:
    """Return whether the field is the user's or item's own ID."""
    return isinstance(field, Categorical) and field.is_id


def first_known(field: Categorical | Bag) -> int:
    """Return the first index of a known value. Below it are the missing value and, with a vocabulary, unknown ones."""
    return 1 if field.buckets else 2


class LowRankCross(nn.Module):
    """x0 ⊙ U(V x) + x: explicit interactions of bounded degree (DCN-V2, arXiv 2008.13535, eq. 2)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Cross the input x0 with the layer before: [N, W], [N, W] → [N, W]."""
        crossed: Tensor = x0 * self.up(self.down(x)) + x
        return crossed


class Affinity(nn.Module):
    """Bilinear term of a user's own short vector, under strong weight decay, and an item's description.

    With semantic vectors it is one linear model per user, all learned together, so that it also ranks unseen items.
    """

    def __init__(self, users: Categorical, described: int, dim: int) -> None:
        super().__init__()
        self.users = nn.Embedding(users.size, dim)
        nn.init.normal_(self.users.weight, std=0.02)
        self.first = first_known(users)
        self.describe = nn.Linear(described, dim)

    def forward(self, index: Tensor, described_ND: Tensor) -> Tensor:
        """Return the term [N] of user indices of batch 1 or N and N items."""
        user = self.users(index) * (index >= self.first).unsqueeze(-1).to(described_ND.dtype)
        affinity: Tensor = (user * self.describe(described_ND)).sum(-1)
        return affinity


class CountModel(nn.Module):
    """MLP from the schema's dense tensors (numbers, click rates, impressions and their ages) to logits [N].

    Without IDs, vectors or history it cannot memorise rows. `train_counts` fits it; afterwards its weights are frozen.
    """

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


class Ranker(nn.Module):
    """The schema's tensors → [N] logits of a click, a blend of the network's and the count model's.

    The two train separately, so that neither unlearns what the other knows. `blend` [2, 2]: weights of both where the
    user's counts are fresh, and where they have the maximum age; weights between are linear in the (logarithmic) age.

    With `conversions` the network has a second head on the same layers: a click's conversion (ESMM, arXiv 1804.07931).
    """

    blend: Tensor

    def __init__(self, schema: FeatureSchema, config: RankerConfig, conversions: bool = False) -> None:
        super().__init__()
        self.config = config
        widths = {side: self._width(schema, side, config) for side in SIDES}
        self.sides: list[Side] = [side for side in SIDES if widths[side]]
        self.embed = embeddings(schema, config)
        semantic = schema.semantic_width("item")
        items = config.embedding * len(schema.indexed("item"))
        shared = [field for field in schema.indexed("item") if not is_id(field)]
        self.shared = [schema.columns[field.name] for field in shared]
        self.overlaps = nn.ModuleList(Overlap(field.size, field.width, first_known(field)) for field in shared)
        width = sum(widths.values()) + SUMMARY * len(self.shared) + config.interest + 1
        self.blocks = len(torch.zeros(semantic).chunk(BLOCKS)) if semantic else 0
        width += SUMMARY * self.blocks
        self.represent = nn.Linear(items + semantic, config.interest)
        self.attend = TargetAttention(config.interest)
        if semantic and config.fusion:
            self.fuse = Fusion(schema.dense_width("item"))
            width += config.interest
        self.affinity = None
        for field in schema.indexed("user"):
            if isinstance(field, Categorical) and field.is_id and config.affinity:
                self.user_id = schema.columns[field.name].start
                self.affinity = Affinity(field, widths["item"], config.affinity)
        self.norm = nn.LayerNorm(width)
        self.cross = nn.ModuleList(LowRankCross(width, config.cross_rank) for _ in range(config.cross_layers))
        layers: list[nn.Module] = []
        for before, after in pairwise((width, *config.hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.deep = nn.Sequential(*layers) if layers else None
        self.head = nn.Linear(width + sum(config.hidden[-1:]), 1)
        self.counts = CountModel(schema, config.counts) if config.counts else None
        self.ages = schema.numeric_width("user") + STATE_FEATURES.index("log_age_days")
        state = schema.state("user")
        self.oldest = math.log1p(state.age_cap_s / SECONDS_PER_DAY) if state else None
        self.register_buffer("blend", torch.full((2, 2), 0.5))
        self.conversion = nn.Linear(self.head.in_features, 1) if conversions else None

    @staticmethod
    def _width(schema: FeatureSchema, side: Side, config: RankerConfig) -> int:
        return config.embedding * len(schema.indexed(side)) + schema.dense_width(side) + schema.semantic_width(side)

    def forward(self, tensors: Tensors) -> Tensor:
        """Return the logits [N] of a click, before calibration."""
        return self.heads(tensors)[0]

    def heads(self, tensors: Tensors) -> list[Tensor]:
        """Return logits [N] by head: of a click and, with conversions, of a click's conversion."""
        target = self.represent_items(tensors["item_categorical"], tensors.get("item_semantic"))
        history = self.represent_items(tensors["history_categorical"], tensors.get("history_semantic"))
        opinions = self.opinions(tensors, target, history)
        return [self.blended(opinions), *(opinions[-1:] if self.conversion else [])]

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Represent items for attention: [..., C] and [..., S] → [..., interest]."""
        embedded = self.embed["item"](categorical)
        represented: Tensor = torch.tanh(
            self.represent(embedded if semantic is None else torch.cat([embedded, semantic], -1))
        )
        return represented

    def opinions(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> list[Tensor]:
        """Return the network's logits [N]; with a count model, its logits and the age [N] of the user's counts as a
        share of the maximum (both logarithmic); last, with conversions, the logits of a click's conversion."""
        network, *conversion = self._network(tensors, target_ND, history_BLD)
        if not self.counts:
            return [network, *conversion]
        age = torch.zeros_like(network)
        if self.oldest is not None:
            age = age + tensors["user_dense"][:, self.ages] / self.oldest
        return [network, self.counts(tensors, target_ND.shape[0]), age, *conversion]

    def blended(self, opinions: list[Tensor]) -> Tensor:
        """Return the logits [N] of a click from the result of `opinions`."""
        if not self.counts:
            return opinions[0]
        network, counts, age = opinions[:3]
        (network_fresh, counts_fresh), (network_old, counts_old) = self.blend
        weighted: Tensor = network * (network_fresh + age * (network_old - network_fresh))
        weighted = weighted + counts * (counts_fresh + age * (counts_old - counts_fresh))
        return weighted

    def _network(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> list[Tensor]:
        n, mask = target_ND.shape[0], tensors["history_mask"]
        sides = {side: self._side(tensors, side).expand(n, -1) for side in self.sides}
        parts = [*sides.values(), torch.log1p(mask.sum(1, keepdim=True)).expand(n, -1) / 2]
        for place, overlap in zip(self.shared, self.overlaps, strict=True):
            alike = overlap(tensors["history_categorical"][..., place], tensors["item_categorical"][..., place])
            parts.append(summarise(alike, mask))
        if self.blocks:
            pairs = zip(*(tensors[f"{of}_semantic"].chunk(BLOCKS, -1) for of in ("history", "item")), strict=True)
            cosines = [cosine(history, target) for history, target in pairs]
            parts += [summarise(alike, mask) for alike in cosines]
            if self.config.fusion:
                neighbours = select(torch.stack(cosines).mean(0), mask, history_BLD, self.config.selected)
                parts.append(self.fuse(target_ND, neighbours, tensors["item_dense"]))
        parts.append(self.attend(history_BLD, mask, target_ND))
        x0 = self.norm(torch.cat(parts, -1))
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        wide_and_deep = x if self.deep is None else torch.cat([x, self.deep(x0)], -1)
        logits: Tensor = self.head(wide_and_deep).squeeze(-1)
        if self.affinity is not None:
            logits = logits + self.affinity(tensors["user_categorical"][:, self.user_id], self._side(tensors, "item"))
        return [logits] if self.conversion is None else [logits, self.conversion(wide_and_deep).squeeze(-1)]

    def _side(self, tensors: Tensors, side: Side) -> Tensor:
        parts = [self.embed[side](tensors[f"{side}_categorical"])] if side in self.embed else []
        parts += [tensors[name] for name in (f"{side}_dense", f"{side}_semantic") if name in tensors]
        return torch.cat(parts, -1)
