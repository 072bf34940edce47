"""History features: the similarity of a user's history to a target, its nearest items, and attention to it.

Histories are oldest first and padded at the end; a mask [B, L] separates items from padding, B being 1 or N.
"""

import torch
from torch import Tensor, nn

LAST = 5
TOP = 3
SUMMARY = 4
STANDS_OUT = 0.1
MOST_INDICATORS = 256


def cosine(history_BLD: Tensor, target_ND: Tensor) -> Tensor:
    """Cosines of each target's vector to those of the history [N, L]; 0 where one of them is missing, all zeros.

    Vectors come from a LayerNorm, so that all have the length √D and none need be normalised here.
    """
    return _products(target_ND, history_BLD.transpose(1, 2)) / target_ND.shape[-1]


class Overlap(nn.Module):
    """How many values of a field a target shares with each item of the history, as the cosine of the two sets.

    For a field of one value that is 1 or 0. Indices below `first` stand for no single value and never match:
    0, a missing value, and 1 where that is all values outside a vocabulary, which do count in the sets' sizes.
    """

    indicators: Tensor | None

    def __init__(self, size: int, width: int, first: int) -> None:
        super().__init__()
        self.first = first
        # With the one history of a request, products of sets' indicators are cheap where there are few values; in
        # training, where each row has a history of its own, pairs take less time and memory. Both count exactly.
        few = width > 1 and size <= MOST_INDICATORS
        indicators = torch.eye(size) if few else None
        if indicators is not None:
            indicators[:first] = 0.0
        self.register_buffer("indicators", indicators, persistent=False)

    def forward(self, history_BLM: Tensor, target_NM: Tensor) -> Tensor:
        """Indices of the history's items and of N targets → [N, L]."""
        sizes_BL, sizes_N1 = ((indices != 0).float().sum(-1) for indices in (history_BLM, target_NM.unsqueeze(1)))
        return self._shared(history_BLM, target_NM) / torch.sqrt((sizes_BL * sizes_N1).clamp(min=1.0))

    def _shared(self, history_BLM: Tensor, target_NM: Tensor) -> Tensor:
        if self.indicators is not None and history_BLM.shape[0] == 1:
            history_BLV, target_NV = (self.indicators[indices.long()].sum(-2) for indices in (history_BLM, target_NM))
            return _products(target_NV, history_BLV.transpose(1, 2))
        same_NLMM = history_BLM.unsqueeze(-1) == target_NM[:, None, None, :]
        return (same_NLMM & (history_BLM >= self.first).unsqueeze(-1)).float().sum((-1, -2))


def _products(rows_NK: Tensor, matrix_BKM: Tensor) -> Tensor:
    """Each of N rows times its own matrix, or all times the one there is [N, M]."""
    if matrix_BKM.shape[0] == 1:
        return torch.matmul(rows_NK, matrix_BKM[0])
    return torch.matmul(rows_NK.unsqueeze(1), matrix_BKM).squeeze(1)


def summarise(alike_NL: Tensor, mask_BL: Tensor) -> Tensor:
    """Likeness by item of the history → [N, 4]: its mean, greatest, mean of the greatest 3 and of the latest 5.

    0 where there is no history.
    """
    length = mask_BL.shape[1]
    size_B = mask_BL.sum(1)
    mean_N = (alike_NL * mask_BL).sum(1) / size_B.clamp(min=1.0)
    place_L = torch.arange(length, dtype=mask_BL.dtype, device=mask_BL.device)
    latest_BL = mask_BL * (place_L >= size_B.unsqueeze(1) - LAST).to(mask_BL.dtype)
    latest_N = (alike_NL * latest_BL).sum(1) / latest_BL.sum(1).clamp(min=1.0)
    top = min(TOP, length)
    # Padding must not stand in for an item of likeness 0: a whole history may be less alike than that.
    greatest_NT = alike_NL.masked_fill(mask_BL == 0, -1.0).topk(top, dim=1).values
    held_BT = (torch.arange(top, dtype=mask_BL.dtype, device=mask_BL.device) < size_B.unsqueeze(1)).to(mask_BL.dtype)
    top_N = (greatest_NT * held_BT).sum(1) / held_BT.sum(1).clamp(min=1.0)
    return torch.stack([mean_N, greatest_NT[:, 0] * held_BT[:, 0], top_N, latest_N], -1)


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


def select(alike_NL: Tensor, mask_BL: Tensor, history_BLD: Tensor, count: int | None) -> Tensor:
    """The `count` items of the history that are nearest to the target (MSD's Selector), merged [N, D]; None takes all.

    An item weighs by how much nearer it is than the first one left out, so that a tie, or a rounding, at the edge moves
    nothing. Where little stands out, or there is no history, the merged vector is near zero.
    """
    length = alike_NL.shape[1]
    alike_NL = alike_NL.masked_fill(mask_BL == 0, -1.0)
    edge_N1 = torch.full_like(alike_NL[:, :1], -1.0)
    if count is not None and count < length:
        edge_N1 = alike_NL.topk(count + 1, dim=1).values[:, -1:]
    weight_NL = torch.relu(alike_NL - edge_N1) * mask_BL
    return _products(weight_NL, history_BLD) / (weight_NL.sum(1, keepdim=True) + STANDS_OUT)


class Fusion(nn.Module):
    """A frequent target keeps what its own embedding says; a rare one leans on its neighbours (MSD's Fusion)."""

    def __init__(self, dense: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dense, 1)

    def forward(self, target_ND: Tensor, neighbours_ND: Tensor, dense_NF: Tensor) -> Tensor:
        """[N, D]; the gate sees the target's dense features, its counts among them."""
        own_N1 = torch.sigmoid(self.gate(dense_NF))
        return own_N1 * target_ND + (1.0 - own_N1) * neighbours_ND
