"""Exact Shapley values of a few players, from what every coalition of them is worth. Does not know what they are."""

from math import factorial

import numpy as np
from numpy.typing import NDArray


def shapley(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Worths [2^n, N] of coalitions, whose members are the bits of the index → each player's share [n, N].

    The only way to share that is additive, symmetric and gives nothing to who changes nothing (L. Shapley, "A value for
    n-person games", 1953): what a player adds to those before him, on average over all orders in which they may come.
    A column of shares sums to the worth of all less the worth of none, to rounding.
    """
    players = len(values).bit_length() - 1
    shares = np.zeros((players, values.shape[1]))
    for player in range(players):
        for others in range(len(values)):
            if others >> player & 1:
                continue
            before = others.bit_count()
            weight = factorial(before) * factorial(players - before - 1) / factorial(players)
            shares[player] += weight * (values[others | 1 << player] - values[others])
    return shares
