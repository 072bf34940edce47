"""History features: similarity of a user's history to a target, its nearest items, and attention to it.

Histories are oldest first and padded at the end. A mask [B, L] marks items against padding; B is 1 or N.
"""

import torch
from torch import Tensor, nn

LAST = 5
TOP = 3
SUMMARY = 4
STANDS_OUT = 0.1
MOST_INDICATORS = 256


def cosine(history_BLD: Tensor, target_ND: Tensor) -> Tensor:
    """Return the cosines [N, L] of each target's vector with those of the history; 0 where either is missing (zeros).

    Vectors come from a LayerNorm: all have the length √D, so they are not normalised here.
    """
    return _products(target_ND, history_BLD.transpose(1, 2)) / target_ND.shape[-1]


class Overlap(nn.Module):
    """Values of a field that a target shares with each item of the history, as the cosine of the two sets.

    For a field of one value that is 1 or 0. Indices below `first` stand for no single value and never match: 0 is a
    missing value; 1, with a vocabulary, is any value outside it, and counts in the sets' sizes.
    """

    indicators: Tensor | None

    def __init__(self, size: int, width: int, first: int) -> None:
        super().__init__()
        self.first = first
        # With one history per request, products of the sets' indicators are cheap if there are few values. In training
        # each row has its own history, and comparing pairs takes less time and memory. Both count exactly.
        few = width > 1 and size <= MOST_INDICATORS
        indicators = torch.eye(size) if few else None
        if indicators is not None:
            indicators[:first] = 0.0
        self.register_buffer("indicators", indicators, persistent=False)

    def forward(self, history_BLM: Tensor, target_NM: Tensor) -> Tensor:
        """Return the overlap [N, L] from the indices of the history's items and of N targets."""
        sizes_BL, sizes_N1 = ((indices != 0).float().sum(-1) for indices in (history_BLM, target_NM.unsqueeze(1)))
        return self._shared(history_BLM, target_NM) / torch.sqrt((sizes_BL * sizes_N1).clamp(min=1.0))

    def _shared(self, history_BLM: Tensor, target_NM: Tensor) -> Tensor:
        if self.indicators is not None and history_BLM.shape[0] == 1:
            history_BLV, target_NV = (self.indicators[indices.long()].sum(-2) for indices in (history_BLM, target_NM))
            return _products(target_NV, history_BLV.transpose(1, 2))
        same_NLMM = history_BLM.unsqueeze(-1) == target_NM[:, None, None, :]
        return (same_NLMM & (history_BLM >= self.first).unsqueeze(-1)).float().sum((-1, -2))


def _products(rows_NK: Tensor, matrix_BKM: Tensor) -> Tensor:
    """Return the products [N, M] of N rows, each with its own matrix, or all with the same one."""
    if matrix_BKM.shape[0] == 1:
        return torch.matmul(rows_NK, matrix_BKM[0])
    return torch.matmul(rows_NK.unsqueeze(1), matrix_BKM).squeeze(1)


def summarise(alike_NL: Tensor, mask_BL: Tensor) -> Tensor:
    """Summarise the similarities of history items as [N, 4]: mean, maximum, mean of the top 3 and of the latest 5.

    0 without history.
    """
    length = mask_BL.shape[1]
    size_B = mask_BL.sum(1)
    mean_N = (alike_NL * mask_BL).sum(1) / size_B.clamp(min=1.0)
    place_L = torch.arange(length, dtype=mask_BL.dtype, device=mask_BL.device)
    latest_BL = mask_BL * (place_L >= size_B.unsqueeze(1) - LAST).to(mask_BL.dtype)
    latest_N = (alike_NL * latest_BL).sum(1) / latest_BL.sum(1).clamp(min=1.0)
    top = min(TOP, length)
    # Padding must not pass for an item of similarity 0: all items of a history can have less.
    greatest_NT = alike_NL.masked_fill(mask_BL == 0, -1.0).topk(top, dim=1).values
    held_BT = (torch.arange(top, dtype=mask_BL.dtype, device=mask_BL.device) < size_B.unsqueeze(1)).to(mask_BL.dtype)
    top_N = (greatest_NT * held_BT).sum(1) / held_BT.sum(1).clamp(min=1.0)
    return torch.stack([mean_N, greatest_NT[:, 0] * held_BT[:, 0], top_N, latest_N], -1)


class TargetAttention(nn.Module):
    """Attention of a target to the history (DIN, arXiv 1706.06978). Sigmoid weights keep how much of it is similar."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(3 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, history_BLD: Tensor, mask_BL: Tensor, target_ND: Tensor) -> Tensor:
        """Return the weighted history [N, D] of N targets; the history has batch 1 or N."""
        n, length = target_ND.shape[0], history_BLD.shape[1]
        history_NLD = history_BLD.expand(n, -1, -1)
        target_NLD = target_ND.unsqueeze(1).expand(-1, length, -1)
        pair = torch.cat([history_NLD, target_NLD, history_NLD * target_NLD], -1)
        weight_NL = torch.sigmoid(self.weigh(pair).squeeze(-1)) * mask_BL
        return (weight_NL.unsqueeze(-1) * history_NLD).sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1.0)


def select(alike_NL: Tensor, mask_BL: Tensor, history_BLD: Tensor, count: int | None) -> Tensor:
    """Merge the `count` history items nearest to the target (MSD's Selector) into [N, D]; None takes all.

    An item's weight is its lead over the nearest item left out, so that ties and rounding at the edge change nothing.
    If little stands out, or there is no history, the merged vector is near zero.
    """
    length = alike_NL.shape[1]
    alike_NL = alike_NL.masked_fill(mask_BL == 0, -1.0)
    edge_N1 = torch.full_like(alike_NL[:, :1], -1.0)
    if count is not None and count < length:
        edge_N1 = alike_NL.topk(count + 1, dim=1).values[:, -1:]
    weight_NL = torch.relu(alike_NL - edge_N1) * mask_BL
    return _products(weight_NL, history_BLD) / (weight_NL.sum(1, keepdim=True) + STANDS_OUT)


class Fusion(nn.Module):
    """Gate between a target's own embedding, for frequent ones, and its neighbours', for rare ones (MSD's Fusion)."""

    def __init__(self, dense: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dense, 1)

    def forward(self, target_ND: Tensor, neighbours_ND: Tensor, dense_NF: Tensor) -> Tensor:
        """Return the fused vectors [N, D]; the gate sees the target's dense features, including its counts."""
        own_N1 = torch.sigmoid(self.gate(dense_NF))
        return own_N1 * target_ND + (1.0 - own_N1) * neighbours_ND
