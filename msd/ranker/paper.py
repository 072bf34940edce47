"""The paper's network (MSD, arXiv 2412.06860, section 4): DeepFM on the vectors of the target, of the history's most
relevant impressions and of the user, fused with IDs by how often an ad was shown.

Its vectors come from a student that is trained with it (`msd.training.end_to_end`); here they are inputs.
"""

import torch
from torch import Tensor, nn

from msd.contract.schema import STATE_FEATURES, FeatureSchema
from msd.ranker.embedding import is_id
from msd.ranker.model import RankerConfig, Tensors
from msd.ranker.networks import DeepFm

_NOTHING = -1e4  # relevance of padding


class Selector(nn.Module):
    """Means of the history's l most relevant clicked impressions, and of the l most relevant passed ones.

    Relevance is learned, a scaled product of both texts' vectors; the selected count by its softmax.
    """

    def __init__(self, semantic: int, width: int, selected: int) -> None:
        super().__init__()
        self.ask, self.tell = (nn.Linear(semantic, width, bias=False) for _ in range(2))
        self.selected, self.scale = selected, width**-0.5

    def forward(self, tensors: Tensors, history_BLD: Tensor) -> list[Tensor]:
        """Return both means [N, D] for N targets; 0 where nothing was clicked or passed."""
        asked_N1K = self.ask(tensors["item_semantic"]).unsqueeze(1) * self.scale
        relevance_NL = (asked_N1K @ self.tell(tensors["history_semantic"]).transpose(1, 2)).squeeze(1)
        clicked_BL = tensors["history_mask"]
        shown_BL = (tensors["history_outcomes"][..., 0] > 0).to(clicked_BL.dtype)
        return [self._mean(relevance_NL, mask_BL, history_BLD) for mask_BL in (clicked_BL, shown_BL - clicked_BL)]

    def _mean(self, relevance_NL: Tensor, mask_BL: Tensor, history_BLD: Tensor) -> Tensor:
        relevance_NL = torch.where(mask_BL > 0, relevance_NL, torch.full_like(relevance_NL, _NOTHING))
        best_NK = relevance_NL.topk(min(self.selected, mask_BL.shape[1]), dim=1).values
        kept_NL = mask_BL * (relevance_NL >= best_NK[:, -1:]).to(mask_BL.dtype)
        weights_NL = kept_NL * (relevance_NL - best_NK[:, :1]).exp()
        weights_NL = weights_NL / weights_NL.sum(1, keepdim=True).clamp(min=1e-6)
        return (weights_NL.unsqueeze(1) @ history_BLD).squeeze(1)


class Fusion(nn.Module):
    """How much of a target is its ID, by its impressions so far: a rare ad is what its text tells, a frequent one what
    was learned of its ID. Untrained, both count alike, as they do if the items have no counts."""

    ids: Tensor

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        self.column = schema.numeric_width("item") + STATE_FEATURES.index("log_impressions")
        self.balance = nn.Linear(1, 1) if schema.state("item") and config.fusion else None
        if self.balance:
            nn.init.zeros_(self.balance.weight)
            nn.init.zeros_(self.balance.bias)
        ids = [torch.full((config.embedding,), float(is_id(field))) for field in schema.indexed("item")]
        self.register_buffer("ids", torch.cat(ids), persistent=False)

    def forward(self, tensors: Tensors, target_ND: Tensor) -> Tensor:
        """Weigh the target's embeddings of IDs and its vector: embeddings ⊕ vector [N, D] → [N, D]."""
        if self.balance is None:
            return target_ND
        share_N1 = torch.sigmoid(self.balance(tensors["item_dense"][:, self.column : self.column + 1]))
        embedded, vector = target_ND[:, : len(self.ids)], target_ND[:, len(self.ids) :]
        by_id_NE = 1.0 + self.ids * (2.0 * share_N1 - 1.0)
        return torch.cat([embedded * by_id_NE, vector * 2.0 * (1.0 - share_N1)], 1)


class Paper(DeepFm):
    """DeepFM whose histories are selected for each target, and whose target is fused by its frequency. The schema must
    have vectors of items."""

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__(schema, config)
        self.select = Selector(schema.semantic_width("item"), config.embedding, config.selected)
        self.fuse = Fusion(schema, config)

    def histories(self, tensors: Tensors, history_BLD: Tensor) -> list[Tensor]:
        """Return the selected impressions' means [N, D], clicked and passed."""
        means: list[Tensor] = self.select(tensors, history_BLD)
        return means

    def target(self, tensors: Tensors, target_ND: Tensor) -> Tensor:
        """Return the fused target [N, D]."""
        fused: Tensor = self.fuse(tensors, target_ND)
        return fused
