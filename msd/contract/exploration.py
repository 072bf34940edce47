"""What exploration tells: which candidate is first, the best by its score, or with a small probability one whose score
is uncertain; and the probability of that choice.

The native core chooses (`native/core/exploration.hpp`), by numbers that are tabulated here.
"""

import math
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.request import Policy

Played = Policy | Literal["greedy"]
Floats = NDArray[np.float64]
_WIDEST = 6.0
_NODES = 128
# The logarithm of the normal distribution is interpolated, to 1e-7 of its value.
_TABLE_FROM, _TABLE_STEPS = -10.0, 1_024


class Choice(NamedTuple):
    """The candidate to show first, by its place; whether the policy chose it; and the probability, before the draw,
    that it would be first by either way."""

    policy: Played
    share: float
    seed: str
    explored: bool
    first: int
    propensity: float

    def as_record(self) -> dict[str, Any]:
        return self._asdict()


@cache
def legendre() -> tuple[Floats, Floats]:
    """Return the nodes and weights of Gauss-Legendre quadrature over [−1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


@cache
def log_normal() -> Floats:
    """Return the logarithm of the normal distribution from −10 to 6, in steps of 1/1,024."""
    normals = np.arange(_TABLE_FROM, _WIDEST + 1 / _TABLE_STEPS, 1 / _TABLE_STEPS)
    return np.log([math.erfc(-normal / math.sqrt(2)) / 2 for normal in normals])
