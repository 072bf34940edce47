"""What an ad's bid is paid for, and what that makes of a bid: eCPM = 1000 × bid × the product of a pricing's heads; and
the order of candidates.

A bundle declares the heads of each pricing that it supports. Does not know budgets, pacing or auctions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pricing = Literal["cpm", "cpc", "cpa"]
"""Per thousand impressions, per click, per conversion."""
Formula = Mapping[Pricing, tuple[str, ...]]
"""The heads whose product a bid is multiplied by, by pricing; none for a bid that is an eCPM already."""
PRICED: Formula = {"cpm": (), "cpc": ("pctr",), "cpa": ("pctr", "pcvr")}
_THOUSAND = 1000.0


def formula_of(heads: Sequence[str]) -> Formula:
    """Return what a model with these heads supports, unless its bundle declares otherwise."""
    return {pricing: needed for pricing, needed in PRICED.items() if set(needed) <= set(heads)}


def ecpm_of(
    bids: Sequence[float | None] | None,
    pricing: Sequence[Pricing] | None,
    scores: Mapping[str, NDArray[np.float32]],
    formula: Formula,
) -> NDArray[np.float64]:
    """Return the eCPM [N] of bids, NaN without one. Without pricing each is paid per click."""
    pctr = scores["pctr"]
    if bids is None:
        return np.full(len(pctr), np.nan)
    if pricing is None:
        return _THOUSAND * np.array(bids, np.float64) * pctr
    prices, chosen = np.array(bids, np.float64), np.array(pricing)
    ecpm = _THOUSAND * prices
    for one in set(pricing):
        places, heads = chosen == one, formula[one]
        if not heads:
            ecpm[places] = prices[places]
        for head in heads:
            ecpm[places] *= scores[head][places]
    return ecpm


def served_places(
    ecpm: NDArray[np.float64], pctr: NDArray[np.float32], top_k: int, first: int | None = None
) -> NDArray[np.intp]:
    """Return the indices of the first `top_k` candidates, best first: those with a bid by eCPM, then those without by
    pCTR; ties keep their order. `first`: a candidate ahead of all others."""
    unpriced = np.isnan(ecpm)
    order = np.lexsort((-np.where(unpriced, pctr, ecpm), unpriced))
    if first is not None:
        order = np.concatenate([[first], order[order != first]])
    return order[:top_k]


def paid_by_click(pricing: Sequence[Pricing] | None, formula: Formula, count: int) -> NDArray[np.bool_]:
    """Return whether the value of each of `count` candidates depends on its pCTR [N]."""
    if pricing is None:
        return np.ones(count, bool)
    return np.array(["pctr" in formula[one] for one in pricing])


def declared_pricing(pricing: Mapping[Any, tuple[str, ...]], heads: Sequence[str]) -> None:
    """Raise ValueError for a declared formula that the heads do not give."""
    for one, needed in pricing.items():
        if missing := [head for head in needed if head not in heads]:
            raise ValueError(f"pricing.{one} multiplies by {missing[0]!r}; the heads are: {', '.join(heads)}")
        if (one == "cpm") == bool(needed):
            raise ValueError(f"pricing.{one}: cpm multiplies by no head, any other pricing by at least one")
