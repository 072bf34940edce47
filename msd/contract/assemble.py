"""From a checked request and its rows to the ranker's tensors: the reference that each export is checked against.

What serves is the core (`native/core/tensors.hpp`), which also says what was degraded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msd.contract.encode import SECONDS_PER_DAY, Value, encode_field, encode_record, encode_state
from msd.contract.request import CheckedRequest
from msd.contract.rows import Records, Rows, has_semantic
from msd.contract.schema import OUTCOME_FEATURES, STATE_FEATURES, FeatureSchema, Side
from msd.contract.state import Impression

Tensors = dict[str, NDArray[Any]]
Rung = Literal["cached", "encoded", "category_prior", "prior"]
UserRung = Literal["cached", "unknown"]
MOST_SHOWN = 8.0
"""Impressions of one item that count at most, so that no item outweighs all others of a history."""
LONGEST_AGE_DAYS = 36_500.0


class Counts(NamedTuple):
    """Counts of n users or items, complete up to `as_of` [n] (Unix s)."""

    impressions: NDArray[np.floating]
    clicks: NDArray[np.floating]
    as_of: NDArray[np.floating]

    @classmethod
    def of(cls, records: Records) -> Self:
        return cls(records["impressions"], records["clicks"], records["as_of"])


def history_of(request: CheckedRequest, user: Rows) -> Sequence[Impression]:
    """Return the request's history, or that of the user's row [1] if it has none."""
    return user.histories[0] if request.history is None else request.history


def wanted_items(request: CheckedRequest, user: Rows) -> list[str]:
    """Return the IDs to fetch rows for, in the order that `assemble` expects: candidates, then history."""
    return [*request.ids, *(impression.item_id for impression in history_of(request, user))]


def assemble(schema: FeatureSchema, request: CheckedRequest, at: float, user: Rows, items: Rows) -> Tensors:
    """Return the ranker's inputs for one request at time `at` (Unix s).

    `user` has one row; `items` has the rows of `wanted_items`. History IDs without a row are skipped, then the last L
    count. A candidate without a row is scored from the request's features, and its text's vector if one is in the row's
    place; otherwise as missing.
    """
    count = len(request.ids)
    constants = schema.serving_constants if request.slot is None else schema.at_slot(request.slot)
    categorical, numeric = encode_record(schema, "context", {**constants, **request.context})
    tensors: Tensors = {"context_categorical": categorical, "context_dense": numeric}
    tensors |= _entities(schema, "user", user.records, at, {0: request.user_features} if request.user_features else {})
    overrides: dict[int, Mapping[str, Value]] = {}
    if request.item_features:
        overrides = {
            place: request.item_features[item_id]
            for place, item_id in enumerate(request.ids)
            if item_id in request.item_features
        }
    tensors |= _entities(schema, "item", items.records[:count], at, overrides)
    kept = np.flatnonzero(items.found[count:])[-schema.history.length :]
    history = history_of(request, user)
    tensors |= _history(schema, items.records[count:][kept], [history[place] for place in kept.tolist()], at)
    return {spec.name: tensors[spec.name] for spec in schema.tensors}


def _entities(
    schema: FeatureSchema, side: Side, records: Records, at: float, overrides: Mapping[int, Mapping[str, Value]]
) -> Tensors:
    categorical, numeric = records["categorical"], records["numeric"]
    if overrides:
        categorical, numeric = categorical.copy(), numeric.copy()
        for place, values in overrides.items():
            for name, value in values.items():
                known = schema.settable[side][name]
                target = numeric if known.kind == "numeric" else categorical
                target[place, schema.columns[name]] = encode_field(known, [value])[0]
    return {
        f"{side}_categorical": np.array(categorical, order="C"),
        f"{side}_dense": dense(schema, side, numeric, Counts.of(records), has_semantic(records), at),
        f"{side}_semantic": records["semantic"].astype(np.float32),
    }


def dense(
    schema: FeatureSchema,
    side: Side,
    numeric: NDArray[np.float32],
    counts: Counts,
    present: NDArray[np.bool_],
    at: ArrayLike,
) -> NDArray[np.float32]:
    """Return the side's dense tensor [n, dense_width]: numbers [n, 2K], counts seen at `at`, presence of a vector
    [n]."""
    filled = numeric.shape[1]
    whole = np.empty((len(numeric), schema.dense_width(side)), np.float32)
    whole[:, :filled] = numeric
    if state := schema.state(side):
        whole[:, filled : filled + len(STATE_FEATURES)] = encode_state(state, *counts, at)
    if schema.semantic(side):
        whole[:, -1] = present
    return whole


def _history(schema: FeatureSchema, kept: Records, history: Sequence[Impression], at: float) -> Tensors:
    """Return the history's tensors, of impressions with their items' rows; padded at the end."""
    count, length = len(kept), schema.history.length
    categorical = np.zeros((1, length, schema.categorical_width("item")), np.int32)
    semantic = np.zeros((1, length, schema.semantic_width("item")), np.float32)
    mask = np.zeros((1, length), np.float32)
    outcomes = np.zeros((1, length, len(OUTCOME_FEATURES)), np.float32)
    categorical[0, :count] = kept["categorical"]
    semantic[0, :count] = kept["semantic"]
    if count:
        when, shown, clicked = np.array([(seen.at, seen.shown, seen.clicked) for seen in history], np.float64).T
        outcomes[0, :count, :3] = encode_impressions(shown, clicked, at - when)
        if state := schema.state("item"):
            outcomes[0, :count, 3] = encode_state(state, *Counts.of(kept), at)[:, 0]
        mask[0, :count] = clicked > 0
    return {
        "history_categorical": categorical,
        "history_semantic": semantic,
        "history_mask": mask,
        "history_outcomes": outcomes,
    }


def encode_impressions(
    shown: NDArray[np.float64], clicked: NDArray[np.float64], age_s: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the first three of `schema.OUTCOME_FEATURES` [..., 3] of impressions of items [...].

    A click implies an impression. More than `MOST_SHOWN` impressions count as that many, with the same click rate.
    """
    impressions = np.maximum(np.maximum(shown, clicked), 1e-6)
    counted = np.minimum(impressions, MOST_SHOWN)
    age = np.minimum(np.maximum(age_s, 0.0) / SECONDS_PER_DAY, LONGEST_AGE_DAYS)
    return np.stack([counted, clicked * (counted / impressions), age], -1).astype(np.float32)
