"""Baselines: logistic regression, DeepFM, DIN and DCN-V2; `msd.ranker.paper` has the paper's own network.

All read the same tensors as MSD's ranker, and have its embedding width and dropout rates. If the schema has vectors,
they are dense inputs. What a user clicked and what they passed over are two histories. An impression in them is its
item and its outcomes: how often it was shown and clicked, its age, and the item's click rate.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from msd.contract.schema import OUTCOME_FEATURES, SIDES, FeatureSchema, Side
from msd.ranker.embedding import SideEmbedding, embeddings
from msd.ranker.model import Opinions, RankerConfig, Tensors, mlp

_ASKING: tuple[Side, Side] = ("user", "context")
_ATTENTION = 36
_WEIGHTS = 3  # of an item in a logistic regression: as a target, clicked, and passed
_OUTCOMES = len(OUTCOME_FEATURES)
_SMALL = 0.1  # of outcomes, which are larger than initial embeddings, so that they do not drown the items


class Baseline(nn.Module, ABC):
    """The schema's tensors → [N] logits of a click; the user's side has batch 1 or N, the candidates' N.

    History items are represented like targets, by `represent_items`; their outcomes follow, the first three as log1p.
    """

    head: nn.Linear

    def forward(self, tensors: Tensors) -> Tensor:
        """Return the logits [N], before calibration."""
        target = self.represent_items(tensors["item_categorical"], tensors.get("item_semantic"))
        history = self.represent_items(tensors["history_categorical"], tensors.get("history_semantic"))
        *amounts, rate = torch.split(tensors["history_outcomes"], 1, -1)
        outcomes = _SMALL * torch.cat([*(one.log1p() for one in amounts), rate], -1)
        return self.score(tensors, target, torch.cat([history, outcomes], -1))

    @abstractmethod
    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Represent items without their numbers and counts: [..., C] and [..., S] → [..., D]."""

    @abstractmethod
    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N], given the represented targets, and the history [B, L, D + 4] with its outcomes."""

    def blended(self, opinions: Opinions) -> Tensor:
        """Return the only logits [N]; MSD's ranker has several."""
        return opinions.network


class Pool(nn.Module):
    """Means of the clicked and of the passed impressions. Each counts by its outcomes, 0 to 2; untrained, all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(_OUTCOMES, 1)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, history_BLD: Tensor, tensors: Tensors) -> list[Tensor]:
        """Return the two means [B, D]."""
        weights_BL1: Tensor = 2.0 * torch.sigmoid(self.weigh(history_BLD[..., -_OUTCOMES:]))
        return _means(weights_BL1 * history_BLD, tensors)


class LogisticRegression(Baseline):
    """One weight per value of each field, per value of clicked and of passed items (averaged), and per number; mean
    outcomes of clicked and passed items are numbers."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        single = config.model_copy(update={"embedding": 1})
        self.weights = embeddings(schema, single)
        self.histories = nn.ModuleList(SideEmbedding(schema, "item", single) for _ in range(2))
        semantic = schema.semantic_width("item")
        self.semantic = nn.Linear(semantic, _WEIGHTS, bias=False) if semantic else None
        self.dense = _dense_widths(schema)
        self.pool = Pool()
        self.head = nn.Linear(sum(self.dense.values()) + 2 * _OUTCOMES, 1)

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Return an item's part of the logit as a target, clicked, and passed: [..., C] and [..., S] → [..., 3]."""
        embedded = [embed(categorical).sum(-1) for embed in (self.weights["item"], *self.histories)]
        weights = torch.stack(embedded, -1)
        return weights if self.semantic is None or semantic is None else weights + self.semantic(semantic)

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N]: the sum of all parts."""
        clicked, passed = self.pool(history_BLD, tensors)
        total: Tensor = target_ND[:, 0] + clicked[:, 1] + passed[:, 2]
        for side in _ASKING:
            if side in self.weights:
                total = total + self.weights[side](tensors[f"{side}_categorical"]).sum(-1)
        numbers = [*(tensors[name] for name in self.dense), *(mean[:, -_OUTCOMES:] for mean in (clicked, passed))]
        logits: Tensor = self.head(_joined(numbers, target_ND.shape[0])).squeeze(-1)
        return total + logits


class Content(Baseline):
    """Linear in an item's vector, and blind to users, history and counts; `msd.training.content` fits it."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        self.head = nn.Linear(schema.semantic_width("item"), 1)

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Return the item's vector: [..., S] → [..., S]."""
        assert semantic is not None, "this network is of a schema with vectors of items"
        return semantic

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N]."""
        logits: Tensor = self.head(target_ND).squeeze(-1)
        return logits


class _Deep(Baseline):
    """Base of the networks with an MLP: embeddings by side; an item is its embeddings and its vector."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        self.embed = embeddings(schema, config)
        self.dense = _dense_widths(schema)
        self.embedded_width = config.embedding * len(schema.indexed("item"))
        self.item_width = self.embedded_width + schema.semantic_width("item")
        asking = config.embedding * sum(len(schema.indexed(side)) for side in _ASKING)
        self.width = asking + sum(self.dense.values()) + 3 * self.item_width + 2 * _OUTCOMES

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Represent items: [..., C] and [..., S] → [..., embeddings ⊕ S]."""
        embedded: Tensor = self.embed["item"](categorical)
        return embedded if semantic is None else torch.cat([embedded, semantic], -1)

    def _asking(self, tensors: Tensors) -> list[Tensor]:
        """Return the embeddings of user and context."""
        return [self.embed[side](tensors[f"{side}_categorical"]) for side in _ASKING if side in self.embed]

    def _joined(self, tensors: Tensors, target_ND: Tensor, histories: list[Tensor]) -> Tensor:
        """Concatenate all inputs to [N, W]; each history is already one vector."""
        numbers = [tensors[name] for name in self.dense]
        return _joined([*self._asking(tensors), *numbers, target_ND, *histories], target_ND.shape[0])


class DeepFm(_Deep):
    """DeepFM (arXiv 1703.04247): sum of first order, products of all pairs of fields, and an MLP.

    Unlike in the paper, each dense tensor and vector is a field too, projected to the embeddings' width. Fields of
    history items are averaged over the items, beside a field of their outcomes.
    """

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__(schema, config)
        self.field_width = config.embedding
        self.linear = LogisticRegression(schema, config)
        semantic = schema.semantic_width("item")
        past = {"clicked": semantic + _OUTCOMES, "passed": semantic + _OUTCOMES}
        widths = {**self.dense, "target": semantic, **past}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, config.embedding, bias=False) for name, width in widths.items() if width}
        )
        for weight in self.projections.parameters():
            # As small as initial embeddings; otherwise products with numbers would drown all others.
            nn.init.normal_(weight, std=0.02)
        self.pool = Pool()
        fields = sum(len(schema.indexed(side)) for side in (*SIDES, "item", "item")) + len(self.projections)
        width = fields * config.embedding
        self.norm = nn.LayerNorm(width)
        self.deep = mlp(width, config.hidden, config.dropout)
        self.head = nn.Linear(config.hidden[-1], 1)

    def represent_items(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Represent items: [..., C] and [..., S] → [..., 3 ⊕ embeddings ⊕ S]; the first three are the first order's."""
        first = self.linear.represent_items(categorical, semantic)
        return torch.cat([first, super().represent_items(categorical, semantic)], -1)

    def histories(self, tensors: Tensors, history_BLD: Tensor) -> list[Tensor]:
        """Return what the clicked and the passed impressions, embeddings ⊕ S ⊕ outcomes, come to: [1 or N, ·] each."""
        means: list[Tensor] = self.pool(history_BLD, tensors)
        return means

    def target(self, tensors: Tensors, target_ND: Tensor) -> Tensor:
        """Return the targets' embeddings ⊕ S as they count [N, ·]."""
        return target_ND

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N]: the sum of the three parts."""
        weights_BLD = torch.cat([history_BLD[..., :_WEIGHTS], history_BLD[..., -_OUTCOMES:]], -1)
        first: Tensor = self.linear.score(tensors, target_ND[..., :_WEIGHTS], weights_BLD)
        parts = [*self._asking(tensors), *(self.projections[name](tensors[name]) for name in self.dense)]
        target_ND, past_BLD = self.target(tensors, target_ND[:, _WEIGHTS:]), history_BLD[..., _WEIGHTS:]
        means = zip(("target", "clicked", "passed"), (target_ND, *self.histories(tensors, past_BLD)), strict=True)
        for name, item in means:
            parts.append(item[:, : self.embedded_width])
            if name in self.projections:
                parts.append(self.projections[name](item[:, self.embedded_width :]))
        joined = _joined(parts, target_ND.shape[0])
        fields_NFE = joined.reshape(joined.shape[0], -1, self.field_width)
        pairs: Tensor = 0.5 * (fields_NFE.sum(1).square() - fields_NFE.square().sum(1)).sum(-1)
        deep: Tensor = self.head(self.deep(self.norm(joined)))
        return first + pairs + deep.squeeze(-1)


class Din(_Deep):
    """DIN (arXiv 1706.06978, section 4.3): MLP over all inputs and histories, weighted by fit to the target."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__(schema, config)
        pair = 4 * self.item_width + _OUTCOMES
        self.weigh = nn.Sequential(nn.Linear(pair, _ATTENTION), nn.PReLU(), nn.Linear(_ATTENTION, 1))
        self.norm = nn.LayerNorm(self.width)
        self.deep = mlp(self.width, config.hidden, config.dropout)
        self.head = nn.Linear(config.hidden[-1], 1)

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N]. As in the paper, a history's weights have no softmax; unlike there, weighted items are
        averaged, because sums over long histories drown the other inputs."""
        n, length = target_ND.shape[0], history_BLD.shape[1]
        history_NLD = history_BLD.expand(n, -1, -1)
        target_NLD, item_NLD = target_ND.unsqueeze(1).expand(-1, length, -1), history_NLD[..., : self.item_width]
        pair = torch.cat([history_NLD, target_NLD, item_NLD - target_NLD, item_NLD * target_NLD], -1)
        x = self.norm(self._joined(tensors, target_ND, _means(self.weigh(pair) * history_NLD, tensors)))
        logits: Tensor = self.head(self.deep(x)).squeeze(-1)
        return logits


class DcnV2(_Deep):
    """DCN-V2 (arXiv 2008.13535, figure 1b): full cross layers beside an MLP; a history is the mean of its items."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__(schema, config)
        self.pool = Pool()
        self.norm = nn.LayerNorm(self.width)
        self.cross = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(config.cross_layers))
        self.deep = mlp(self.width, config.hidden, config.dropout)
        self.head = nn.Linear(self.width + config.hidden[-1], 1)

    def score(self, tensors: Tensors, target_ND: Tensor, history_BLD: Tensor) -> Tensor:
        """Return the logits [N]; a cross layer is x0 ⊙ (W x + b) + x (eq. 1)."""
        x0 = self.norm(self._joined(tensors, target_ND, self.pool(history_BLD, tensors)))
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        logits: Tensor = self.head(torch.cat([x, self.deep(x0)], -1)).squeeze(-1)
        return logits


def _dense_widths(schema: FeatureSchema) -> dict[str, int]:
    """Return the widths of the dense tensors by name; an item's vector is part of its representation instead."""
    widths = {f"{side}_dense": schema.dense_width(side) for side in SIDES}
    widths["user_semantic"] = schema.semantic_width("user")
    return {name: width for name, width in widths.items() if width}


def _joined(parts: list[Tensor], n: int) -> Tensor:
    """Concatenate parts [1 or n, ·] to [n, Σ]."""
    return torch.cat([part.expand(n, -1) for part in parts], -1)


def _means(history_BLD: Tensor, tensors: Tensors) -> list[Tensor]:
    """Return the means [B, D] of the items that the user clicked, and of those that they passed; 0 without any."""
    clicked_BL = tensors["history_mask"]
    passed_BL = (tensors["history_outcomes"][..., 0] > 0).to(clicked_BL.dtype) - clicked_BL
    return [
        (history_BLD * mask_BL.unsqueeze(-1)).sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1.0)
        for mask_BL in (clicked_BL, passed_BL)
    ]
