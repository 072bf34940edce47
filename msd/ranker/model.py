"""MSD's CTR model: a linear layer and an MLP over all sides, the user's taste and affinity, beside a count model, a
content model and crosses.

One implementation: the user's side has batch 1 (serving) or N (training), the candidates' always N. It knows the
schema's tensors, not their source.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from msd.contract.encode import SECONDS_PER_DAY
from msd.contract.schema import SIDES, STATE_FEATURES, Categorical, FeatureSchema, Side
from msd.ranker.crosses import Cross, Crosses
from msd.ranker.embedding import embeddings, first_known, is_id, known_rows, summed
from msd.ranker.shared import dots, linear
from msd.ranker.taste import PARTS, Taste

NetworkName = Literal["msd", "paper", "content", "lr", "deepfm", "din", "dcnv2"]
Tensors = Mapping[str, Tensor]
_MOST_VALUES = 64  # of a field that the content model reads


class RankerConfig(BaseModel):
    """Architecture, layer widths and dropout rates.

    `hidden` may be empty (no MLP) for `msd` and `lr`. `cross_layers`: of `dcnv2`. `id_hidden`: share of IDs that
    training hides whole. `affinity`: length of each user's own vector, 0 for none. `taste`: whether `msd` reads the
    history. `counts`: layer widths of the count model beside `msd`, empty for none. `content`: directions of the
    content model beside it, 0 for none. `crosses`: those beside it; None before training has chosen them.

    Of `paper`: impressions `selected` from the history, of each outcome; `fusion`, whether an ad's frequency weighs its
    ID against its text; and rank and number of the student's top `layers` that are tuned, 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkName = "msd"
    embedding: int = 16
    cross_layers: int = 2
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    id_dropout: float = 0.5
    id_hidden: float = 0.1
    affinity: int = 16
    taste: bool = True
    counts: tuple[int, ...] = (32, 16)
    content: int = 8
    crosses: tuple[Cross, ...] | None = None
    selected: int = 10
    fusion: bool = True
    rank: int = 8
    layers: int = 2

    @model_validator(mode="after")
    def _baselines_are_deep(self) -> Self:
        if not self.hidden and self.network not in ("msd", "lr"):
            raise ValueError(f"hidden is empty, and the network {self.network!r} is not without an MLP")
        return self


def mlp(width: int, hidden: tuple[int, ...], dropout: float = 0.0) -> nn.Sequential:
    """Return hidden layers over inputs of a width."""
    layers: list[nn.Module] = []
    for before, after in pairwise((width, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
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
        user = known_rows(index, self.users.weight, self.first)
        liked_N1 = dots(described_ND, user @ self.describe.weight)
        return (liked_N1 + dots(user, self.describe.bias.unsqueeze(0)))[:, 0]


class CountModel(nn.Module):
    """MLP from the schema's dense tensors (numbers, click rates, impressions and their ages) to logits [N].

    Without IDs, vectors or history it cannot memorise rows. `train_counts` fits it; afterwards its weights are frozen.
    """

    def __init__(self, schema: FeatureSchema, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = {f"{side}_dense": schema.dense_width(side) for side in SIDES}
        self.dense = [name for name, width in widths.items() if width]
        layers = mlp(sum(widths.values()), hidden), nn.Linear(hidden[-1], 1)
        self.layers = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, tensors: Tensors) -> Tensor:
        """Return logits [N]. Tensors of user and context have batch 1 or N, those of candidates N."""
        hidden, head = self.layers
        weight, bias = hidden.get_parameter("0.weight"), hidden.get_parameter("0.bias")
        x = linear([tensors[name] for name in self.dense], weight, bias)
        for layer in list(hidden.children())[1:]:
            x = layer(x)
        logits: Tensor = head(x)[:, 0]
        return logits


class ContentModel(nn.Module):
    """Linear models of items' content, one per user: of all users together, and a user's own in a few directions.

    Content is numbers, vectors and values of small vocabularies, no ID and no count: it also ranks items
    without impressions. What a missing vector would add is guessed from the values. `train_content` fits it; then its
    weights are frozen. An unknown user has the shared model.
    """

    def __init__(self, schema: FeatureSchema, user: Categorical, directions: int) -> None:
        super().__init__()
        fields = [field for field in schema.indexed("item") if not is_id(field) and field.size <= _MOST_VALUES]
        self.fields = [(schema.columns[field.name], field.size) for field in fields]
        self.user_id, width = schema.columns[user.name].start, 1 + directions
        self.numbers = schema.numeric_width("item")
        # Weights of the values, then those of the guess.
        self.sets = 2 if schema.semantic("item") and self.fields else 1
        self.values = nn.ModuleList(nn.Embedding(size, self.sets * width) for _, size in self.fields)
        inputs = self.numbers + schema.semantic_width("item")
        self.linear = nn.Linear(inputs, width, bias=False) if inputs else None
        self.users = nn.Embedding(user.size, width)
        self.requires_grad_(False)

    def forward(self, tensors: Tensors) -> tuple[Tensor, Tensor | None]:
        """Return logits [N], and what of them [N] is a guess; None if it makes none. The user has batch 1 or N, the
        candidates N."""
        user_BW, dense, guess_N1 = self.users(tensors["user_categorical"][:, self.user_id]), tensors["item_dense"], None
        shares_BW = nn.functional.pad(user_BW[:, 1:], (1, 0), value=1.0)
        logits_N1: Tensor = user_BW[:, :1]
        if self.values:
            weights = [
                summed(tensors["item_categorical"][:, columns], table.get_parameter("weight"))
                for (columns, _), table in zip(self.fields, self.values, strict=True)
            ]
            known_NW, *guesses = sum(weights[1:], weights[0]).chunk(self.sets, 1)
            logits_N1 = logits_N1 + dots(known_NW, shares_BW)
            for guess_NW in guesses:
                # The last dense column says whether there is a vector.
                guess_N1 = (1.0 - dense[:, -1:]) * dots(guess_NW, shares_BW)
                logits_N1 = logits_N1 + guess_N1
        if self.linear is not None:
            by_user_BK = shares_BW @ self.linear.weight
            if self.numbers:
                logits_N1 = logits_N1 + dots(dense[:, : self.numbers], by_user_BK[:, : self.numbers])
            if "item_semantic" in tensors:
                logits_N1 = logits_N1 + dots(tensors["item_semantic"], by_user_BK[:, self.numbers :])
        return logits_N1[:, 0], None if guess_N1 is None else guess_N1[:, 0]


class Opinions(NamedTuple):
    """Logits [N] of a click by each expert that a ranker has; with several, the age [N] of the user's counts as a share
    of the maximum (both logarithmic); with conversions, the logits [N] of a click's conversion."""

    network: Tensor
    counts: Tensor | None = None
    content: Tensor | None = None
    crosses: Tensor | None = None
    age: Tensor | None = None
    conversion: Tensor | None = None

    @property
    def experts(self) -> list[Tensor]:
        """The logits of the experts, the network first."""
        return [one for one in (self.network, self.counts, self.content, self.crosses) if one is not None]


class Ranker(nn.Module):
    """The schema's tensors → [N] logits of a click, a blend of four experts: network, count model, content
    model and crosses.

    They train separately, so that none unlearns what another knows. `blend` [2, E]: weights of the E experts where the
    user's counts are fresh, and where they have the maximum age; weights between are linear in the (logarithmic) age.

    With `conversions` the network has a second head on the same layers: a click's conversion (ESMM, arXiv 1804.07931).
    """

    blend: Tensor

    def __init__(self, schema: FeatureSchema, config: RankerConfig, conversions: bool = False) -> None:
        super().__init__()
        self.config = config
        widths: dict[Side, int] = {}
        for side in SIDES:
            widths[side] = config.embedding * len(schema.indexed(side))
            widths[side] += schema.dense_width(side) + schema.semantic_width(side)
        self.sides = [side for side in SIDES if widths[side]]
        self.embed = embeddings(schema, config)
        self.taste = Taste(schema).requires_grad_(False) if config.taste else None
        self.affinity = self.content = None
        for field in schema.indexed("user"):
            if isinstance(field, Categorical) and field.is_id:
                self.user_id = schema.columns[field.name].start
                self.affinity = Affinity(field, widths["item"], config.affinity) if config.affinity else None
                content = ContentModel(schema, field, config.content)
                # Items may have nothing but their ID.
                self.content = content if config.content and (content.values or content.linear) else None
        width = sum(widths.values())
        self.norm = nn.LayerNorm(width)
        self.deep = mlp(width, config.hidden, config.dropout) if config.hidden else None
        width += sum(config.hidden[-1:])
        self.head = nn.Linear(width, 1)
        if self.taste:
            self.by_taste = nn.Linear(len(PARTS), 1, bias=False)
            nn.init.constant_(self.by_taste.weight, 0.7)
        self.counts = CountModel(schema, config.counts) if config.counts else None
        self.ages = schema.numeric_width("user") + STATE_FEATURES.index("log_age_days")
        state = schema.state("user")
        self.oldest = math.log1p(state.age_cap_s / SECONDS_PER_DAY) if state else None
        self.crosses = Crosses(schema, config.crosses) if config.crosses else None
        self.experts = 1 + sum(one is not None for one in (self.counts, self.content, self.crosses))
        self.register_buffer("blend", torch.full((2, self.experts), 1.0 / self.experts))
        self.conversion = nn.Linear(width, 1) if conversions else None

    def forward(self, tensors: Tensors) -> Tensor:
        """Return the logits [N] of a click, before calibration."""
        return self.heads(tensors)[0]

    def heads(self, tensors: Tensors) -> list[Tensor]:
        """Return logits [N] by head: of a click and, with conversions, of a click's conversion."""
        opinions = self.opinions(tensors, self.taste(tensors) if self.taste else None)
        return [self.blended(opinions), *([] if opinions.conversion is None else [opinions.conversion])]

    def opinions(self, tensors: Tensors, taste: Tensor | None) -> Opinions:
        """Return what is blended. `taste`: the `PARTS` [N, 2] that `self.taste` returns of the tensors, None without
        one."""
        sides = {side: self._side(tensors, side) for side in self.sides}
        network, conversion = self._network(list(sides.values()))
        if self.affinity is not None:
            network = network + self.affinity(tensors["user_categorical"][:, self.user_id], sides["item"])
        if taste is not None:
            network = network + self.by_taste(taste)[:, 0]
        content, guess = self.content(tensors) if self.content else (None, None)
        if guess is not None:
            network = network + guess  # it learned beside the guess, too
        counts = self.counts(tensors) if self.counts else None
        # No training of the network needs them, and their history.
        crosses = self.crosses(tensors).expand_as(network) if self.crosses and not self.training else None
        age = torch.zeros_like(network) if self.experts > 1 else None
        if age is not None and self.oldest is not None:
            age = tensors["user_dense"][:, self.ages] / self.oldest
        return Opinions(network, counts, content, crosses, age, conversion)

    def blended(self, opinions: Opinions) -> Tensor:
        """Return the logits [N] of a click."""
        if opinions.age is None:
            return opinions.network
        fresh, old = self.blend
        weighted: Tensor = torch.stack(opinions.experts, -1) * (fresh + opinions.age.unsqueeze(-1) * (old - fresh))
        return weighted.sum(-1)

    def _network(self, sides: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return logits [N] of a click and, with conversions, of its conversion, from the sides' inputs [1 or N, ·].

        The heads read the normalised inputs and the MLP. What reads those inputs is one linear layer, which takes in
        the normalisation's weights, so that a side of one row is multiplied once.
        """
        heads = [self.head, *([self.conversion] if self.conversion else [])]
        layers = list(self.deep) if self.deep else []
        readers = [*(layer for layer in layers[:1] if isinstance(layer, nn.Linear)), *heads]
        width = len(self.norm.weight)
        weight = torch.cat([layer.weight[:, :width] for layer in readers])
        bias = torch.cat([layer.bias for layer in readers]) + weight @ self.norm.bias
        weight = weight * self.norm.weight
        weight = weight - weight.mean(1, keepdim=True)  # instead of taking the mean from the inputs
        mean, square = (
            sum((one.sum(-1, keepdim=True) for one in ones), torch.zeros(1, 1, device=weight.device)) / width
            for ones in (sides, [side.square() for side in sides])
        )
        deviation = ((square - mean.square()).clamp(min=0.0) + self.norm.eps).sqrt()
        x = linear(sides, weight, torch.zeros_like(bias)) / deviation + bias
        logits = x[:, -len(heads) :]
        if layers:
            hidden = x[:, : -len(heads)]
            for layer in layers[1:]:
                hidden = layer(hidden)
            logits = logits + hidden @ torch.cat([layer.weight[:, width:] for layer in heads]).transpose(0, 1)
        return logits[:, 0], logits[:, 1] if self.conversion else None

    def _side(self, tensors: Tensors, side: Side) -> Tensor:
        parts = [self.embed[side](tensors[f"{side}_categorical"])] if side in self.embed else []
        parts += [tensors[name] for name in (f"{side}_dense", f"{side}_semantic") if name in tensors]
        return torch.cat(parts, -1)
