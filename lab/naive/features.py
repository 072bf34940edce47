"""Rows → the inputs of a graph with one row per candidate in each input. Knows neither HTTP nor stores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lab.naive.rows import FoundRecords
from msd.contract.errors import MsdError
from msd.contract.schema import FeatureSchema

Inputs = dict[str, NDArray[np.generic]]
_GIVEN = (
    *("user_categorical", "user_semantic", "history_categorical", "history_semantic", "history_mask"),
    *("item_categorical", "item_semantic"),
)


def check_inputs(names: Sequence[str]) -> None:
    """Raise MsdError for an input that is not provided."""
    if unknown := sorted(set(names) - set(_GIVEN)):
        raise MsdError(f"the naive service has no input {unknown[0]!r} to give; it has {', '.join(_GIVEN)}")


def tiled_inputs(schema: FeatureSchema, found: FoundRecords, wanted: Sequence[str]) -> Inputs:
    """Return the wanted inputs, each with N rows: user inputs are repeated."""
    count, kept, length = len(found.items), len(found.history), schema.history.length
    inputs: Inputs = {}
    for name in wanted:
        side, _, kind = name.partition("_")
        if side == "item":
            inputs[name] = _typed(found.items[kind])
            continue
        if side == "user":
            one = _typed(found.user[kind])
        else:
            values = np.ones(kept, np.float32) if kind == "mask" else _typed(found.history[kind])
            one = np.zeros((1, length, *values.shape[1:]), values.dtype)
            one[0, :kept] = values
        inputs[name] = np.repeat(one, count, axis=0)
    return inputs


def _typed(column: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(column, np.int32 if column.dtype.kind == "i" else np.float32)
