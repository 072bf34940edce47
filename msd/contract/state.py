"""State of a user or an item: decayed counts, and a user's recent impressions. The native core folds events into states
(`native/core/fold.hpp`).
"""

from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from msd.contract.schema import FeatureSchema

_HALF_LIFE_S = 30 * 86_400.0
Seconds = TypeVar("Seconds", float, NDArray[np.float64])


class Impression(NamedTuple):
    """What a user did with one item: when it was last shown or clicked (Unix s), how often shown, how often clicked.

    Infinite `at`: at the time of the request, whose history tells no times.
    """

    at: float
    item_id: str
    shown: float = 1.0
    clicked: float = 1.0


class StateRule(NamedTuple):
    """How counts decay and how many items a user's history keeps."""

    half_life_s: float
    history_length: int


def state_rules(schema: FeatureSchema) -> dict[Literal["user", "item"], StateRule]:
    """Return, by side, how states decay and how many items they keep; a side whose counts no model reads decays as the
    other."""
    sides: tuple[Literal["user", "item"], ...] = ("user", "item")
    own = {side: state.half_life_s for side in sides if (state := schema.state(side))}
    some = next(iter(own.values()), _HALF_LIFE_S)
    return {side: StateRule(own.get(side, some), schema.history.length) for side in sides}


class EntityState(NamedTuple):
    """Counts decayed to, and complete up to, `as_of` (Unix s); a user's impressions, one an item, oldest first."""

    impressions: float = 0.0
    clicks: float = 0.0
    as_of: float = 0.0
    history: tuple[Impression, ...] = ()


def decay(elapsed: Seconds, half_life_s: float) -> Seconds:
    """Return the factor of counts after some seconds, for a number or an array: they halve every half-life."""
    exponent = -elapsed / half_life_s
    factor: Seconds = np.exp2(exponent) if isinstance(exponent, np.ndarray) else 2.0**exponent
    return factor
