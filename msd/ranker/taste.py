"""A user's taste: a Gaussian process over their own impressions, clicked or not, in the space that describes the items.

How much more a user clicks than others do is a sum of parts: always, lately, on this visit, and for items like this
one. Clicks are compared with the items' click rates on the scale of log-odds, as in one step of Laplace's approximation
(Rasmussen and Williams 2006, algorithm 3.1). Only the kernel's few scales are learned (`msd.training.train_taste`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from msd.contract.schema import STATE_FEATURES, FeatureSchema
from msd.ranker.embedding import count_values, first_known, is_id, summed
from msd.ranker.shared import dots

BLOCKS = 2  # blocks of a vector: meaning and words
PARTS = ("mood", "mean")
"""What `Taste` knows of each target."""
_INDICATORS = 256  # of a field; values beyond that many share them
_LEAST_WEIGHT = 1e-6
_MOST_SHIFT = 5.0  # log-odds; one Newton step overshoots where clicks are rare
# Initial scales: variances of log-odds, and days.
_ALWAYS, _OF_BLOCK, _OF_FIELD = 0.2, 0.3, 0.15
_LATELY, _DAYS = [0.3, 0.2], [10.0, 0.05]  # over days, and on one visit


class Taste(nn.Module):
    """The kernel's scales; tensors of a history (batch 1 or N) and of N targets to the process's posterior.

    The kernel of two impressions i and j is always + Σ lately mᵢmⱼ + likeness(i, j), summed over two speeds at which m
    fades with age. The likeness adds the cosines of the vectors' blocks and the shared values of each field.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        fields = [field for field in schema.indexed("item") if not is_id(field)]
        self.fields = [(schema.columns[field.name], first_known(field), field.size) for field in fields]
        for place, (_, first, size) in enumerate(self.fields):
            known = torch.eye(min(size - first, _INDICATORS))
            self.register_buffer(f"values_{place}", nn.functional.pad(known, (0, 0, first, 0)), persistent=False)
        self.blocks = BLOCKS if schema.semantic("item") else 0
        self.dim = schema.semantic_width("item") // BLOCKS
        self.scales = nn.ParameterDict(
            {
                "always": _log(_ALWAYS),
                "lately": _log(_LATELY),
                "days": _log(_DAYS),
                "blocks": _log([_OF_BLOCK] * self.blocks),
                "fields": _log([_OF_FIELD] * len(fields)),
            }
        )
        state = schema.state("item")
        assert state is not None, "every fitted schema has the item's counts"
        self.offset = nn.Parameter(torch.tensor([math.log(state.prior / (1 - state.prior)), 1.0]))
        self.rate = schema.numeric_width("item") + STATE_FEATURES.index("smoothed_log_odds")

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return `PARTS` [N, 2] of the targets: what the user's mood adds to the log-odds, and what they think of items
        like this one. The latter is linear in what describes an item, with weights that are solved once a user."""
        shown_BL1, clicks_BL1, age_BL1, rate_BL1 = torch.split(tensors["history_outcomes"], 1, -1)
        expected_BL1 = torch.sigmoid(self._log_odds(rate_BL1))
        weight_BL1 = torch.sqrt(shown_BL1) * torch.sqrt(expected_BL1 * (1.0 - expected_BL1))
        surprise_BL1 = (clicks_BL1 - shown_BL1 * expected_BL1) / weight_BL1.clamp(min=_LEAST_WEIGHT)

        always, lately, days = (self.scales[name].exp() for name in ("always", "lately", "days"))
        mood_M = torch.cat([lately, always.unsqueeze(0)]).sqrt()
        fade_BLM = torch.cat([torch.exp(-age_BL1 / days), torch.ones_like(age_BL1)], -1)
        mood_BLM = mood_M * fade_BLM * weight_BL1
        described_BLF = self._describe(tensors["history_categorical"], tensors.get("history_semantic")) * weight_BL1
        scaled_BLF = described_BLF * self._scales()
        kernel_BLL = scaled_BLF @ described_BLF.transpose(1, 2) + mood_BLM @ mood_BLM.transpose(1, 2)
        identity_LL = torch.eye(kernel_BLL.shape[-1], device=kernel_BLL.device)
        learned_B1L = (torch.linalg.inv(identity_LL + kernel_BLL) @ surprise_BL1).transpose(1, 2)

        mood_B1 = (learned_B1L @ mood_BLM @ mood_M.unsqueeze(-1))[:, 0]
        liked_BF = (learned_B1L @ scaled_BLF)[:, 0]
        mean_N1 = dots(self._describe(tensors["item_categorical"], tensors.get("item_semantic")), liked_BF)
        return torch.cat([mood_B1.expand_as(mean_N1), mean_N1], -1).clamp(-_MOST_SHIFT, _MOST_SHIFT)

    def log_odds(self, tensors: Mapping[str, Tensor], parts: Tensor) -> Tensor:
        """Return the log-odds [N] of a click by the taste alone, from its `PARTS` and the items' click rates."""
        return self._log_odds(tensors["item_dense"][:, self.rate]) + parts[:, 0] + parts[:, 1]

    def _log_odds(self, rate: Tensor) -> Tensor:
        return self.offset[0] + self.offset[1] * rate

    def _describe(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Return vectors [..., F] of items, whose products, by `_scales`, are their likeness in blocks and fields."""
        parts = [] if semantic is None else [semantic]
        for place, (columns, first, size) in enumerate(self.fields):
            index = categorical[..., columns]
            if size - first > _INDICATORS:
                index = torch.where(index < first, index, first + (index - first) % _INDICATORS)
            values = summed(index, self.get_buffer(f"values_{place}"))
            parts.append(values if index.shape[-1] == 1 else values / count_values(index).sqrt())
        return torch.cat(parts or [torch.zeros_like(categorical[..., :1], dtype=torch.float32)], -1)

    def _scales(self) -> Tensor:
        """Return the scale [F] of each number that describes an item. All blocks have the length √D."""
        parts = [(scale / self.dim).expand(self.dim) for scale in self.scales["blocks"].exp().unbind()]
        for place, scale in enumerate(self.scales["fields"].exp().unbind()):
            parts.append(scale.expand(self.get_buffer(f"values_{place}").shape[1]))
        return torch.cat(parts or [self.offset.new_zeros(1)])


def _log(values: float | list[float]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values).log())
