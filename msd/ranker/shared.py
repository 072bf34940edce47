"""Products of tensors with a row for each of N candidates, or one row that all of them share.

What is shared is multiplied once, so that a graph traced with one user does the user's work once a request.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def dots(rows_NK: Tensor, other_BK: Tensor) -> Tensor:
    """Return the dot products [N, 1] of N rows with as many others, or all with one."""
    if other_BK.shape[0] == 1:
        return rows_NK @ other_BK.reshape(-1, 1)
    return (rows_NK * other_BK).sum(-1, keepdim=True)


def linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Return a linear layer's outputs [N, M] of inputs in parts [1 or N, ·]; those of one row are multiplied once."""
    weights = torch.split(weight, [length_of(part, 1) for part in parts], 1)
    pairs = sorted(zip(parts, weights, strict=True), key=lambda pair: len(pair[0]))
    for part, rows in pairs:
        bias = part @ rows.transpose(0, 1) + bias
    return bias


def length_of(tensor: Tensor, axis: int) -> int:
    """Return an axis' length as a number, not as a part of a traced graph."""
    return int(tensor.shape[axis])
