"""MSD's CTR model: a linear layer and an MLP over all sides, the user's taste and affinity, and a count model.

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
from msd.contract.schema import SIDES, STATE_FEATURES, Categorical, FeatureSchema, Side
from msd.ranker.embedding import embeddings, first_known
from msd.ranker.taste import FEATURES, Taste, taste_features

WITH_CONVERSIONS = ("msd",)
"""Networks that can have a head for conversions."""
Tensors = Mapping[str, Tensor]


class RankerConfig(BaseModel):
    """Architecture, layer widths and dropout rates.

    `hidden` may be empty (no MLP) for `msd` and `lr`. `cross_layers`: of `dcnv2`. `id_hidden`: share of IDs that
    training hides whole. `affinity`: length of each user's own vector, 0 for none. `taste`: whether `msd` reads the
    history. `counts`: layer widths of the count model beside `msd`, empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["msd", "content", "lr", "deepfm", "din", "dcnv2"] = "msd"
    embedding: int = 16
    cross_layers: int = 2
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    id_dropout: float = 0.5
    id_hidden: float = 0.1
    affinity: int = 16
    taste: bool = True
    counts: tuple[int, ...] = (32, 16)

    @model_validator(mode="after")
    def _baselines_are_deep(self) -> Self:
        if not self.hidden and self.network not in (*WITH_CONVERSIONS, "lr"):
            raise ValueError(f"hidden is empty, and the network {self.network!r} is not without an MLP")
        return self


def mlp(width: int, config: RankerConfig) -> nn.Sequential:
    """Return the configured hidden layers over inputs of a width."""
    layers: list[nn.Module] = []
    for before, after in pairwise((width, *config.hidden)):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers)


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
        self.taste = Taste(schema).requires_grad_(False) if config.taste else None
        self.affinity = None
        for field in schema.indexed("user"):
            if isinstance(field, Categorical) and field.is_id and config.affinity:
                self.user_id = schema.columns[field.name].start
                self.affinity = Affinity(field, widths["item"], config.affinity)
        width = sum(widths.values())
        self.norm = nn.LayerNorm(width)
        self.deep = mlp(width, config) if config.hidden else None
        width += sum(config.hidden[-1:])
        self.head = nn.Linear(width, 1)
        if self.taste:
            self.by_taste = nn.Linear(FEATURES, 1, bias=False)
            with torch.no_grad():
                self.by_taste.weight.copy_(torch.tensor([[0.7, 0.7, 0.0, 0.0]]))
        self.counts = CountModel(schema, config.counts) if config.counts else None
        self.ages = schema.numeric_width("user") + STATE_FEATURES.index("log_age_days")
        state = schema.state("user")
        self.oldest = math.log1p(state.age_cap_s / SECONDS_PER_DAY) if state else None
        self.register_buffer("blend", torch.full((2, 2), 0.5))
        self.conversion = nn.Linear(width, 1) if conversions else None

    @staticmethod
    def _width(schema: FeatureSchema, side: Side, config: RankerConfig) -> int:
        return config.embedding * len(schema.indexed(side)) + schema.dense_width(side) + schema.semantic_width(side)

    def forward(self, tensors: Tensors) -> Tensor:
        """Return the logits [N] of a click, before calibration."""
        return self.heads(tensors)[0]

    def heads(self, tensors: Tensors) -> list[Tensor]:
        """Return logits [N] by head: of a click and, with conversions, of a click's conversion."""
        opinions = self.opinions(tensors, self.taste(tensors) if self.taste else None)
        return [self.blended(opinions), *(opinions[-1:] if self.conversion else [])]

    def opinions(self, tensors: Tensors, taste: Tensor | None) -> list[Tensor]:
        """Return the network's logits [N]; with a count model, its logits and the age [N] of the user's counts as a
        share of the maximum (both logarithmic); last, with conversions, the logits of a click's conversion.

        `taste`: the `PARTS` [N, 4] that `self.taste` returns of the tensors, None without one.
        """
        n = tensors["item_categorical"].shape[0]
        sides = {side: self._side(tensors, side).expand(n, -1) for side in self.sides}
        x = self.norm(torch.cat(list(sides.values()), -1))
        x = x if self.deep is None else torch.cat([x, self.deep(x)], -1)
        network: Tensor = self.head(x).squeeze(-1)
        if self.affinity is not None:
            network = network + self.affinity(tensors["user_categorical"][:, self.user_id], sides["item"])
        if taste is not None:
            network = network + self.by_taste(taste_features(taste)).squeeze(-1)
        conversion = [] if self.conversion is None else [self.conversion(x).squeeze(-1)]
        if not self.counts:
            return [network, *conversion]
        age = torch.zeros_like(network)
        if self.oldest is not None:
            age = age + tensors["user_dense"][:, self.ages] / self.oldest
        return [network, self.counts(tensors, n), age, *conversion]

    def blended(self, opinions: list[Tensor]) -> Tensor:
        """Return the logits [N] of a click from the result of `opinions`."""
        if not self.counts:
            return opinions[0]
        network, counts, age = opinions[:3]
        (network_fresh, counts_fresh), (network_old, counts_old) = self.blend
        weighted: Tensor = network * (network_fresh + age * (network_old - network_fresh))
        weighted = weighted + counts * (counts_fresh + age * (counts_old - counts_fresh))
        return weighted

    def _side(self, tensors: Tensors, side: Side) -> Tensor:
        parts = [self.embed[side](tensors[f"{side}_categorical"])] if side in self.embed else []
        parts += [tensors[name] for name in (f"{side}_dense", f"{side}_semantic") if name in tensors]
        return torch.cat(parts, -1)
