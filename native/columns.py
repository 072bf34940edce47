"""Columns of many values and counts in the native core, the only way from raw values to tensors: the same for training
rows, exported rows and requests (`native/core/features.hpp`, `columns.hpp`). Encoding values one by one equals encoding
them together. Missing is index 0, or value 0 with its missing flag set.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msd.contract.encode import Value
from msd.contract.errors import MsdError, SchemaError
from msd.contract.rows import Records
from msd.contract.schema import STATE_FEATURES, FeatureSchema, Side, State, ValueField
from native import REASON, core


class Counts(NamedTuple):
    """Counts of n users or items, complete up to `as_of` [n] (Unix s)."""

    impressions: NDArray[np.floating]
    clicks: NDArray[np.floating]
    as_of: NDArray[np.floating]

    @classmethod
    def of(cls, records: Records) -> Self:
        return cls(records["impressions"], records["clicks"], records["as_of"])


def core_ufuncs() -> "core.Ufuncs":
    """Return numpy's loops, with which the core computes: those of another library may differ in the last bit."""
    return core.Ufuncs(log=np.log, log1p=np.log1p, exp=np.exp, exp2=np.exp2, expm1=np.expm1)


def core_field(field: ValueField, start: int) -> "core.Field":
    """Return the core's form of a field whose columns begin at `start`."""
    kinds = core.FieldKind
    indexed = field.kind != "numeric"
    return core.Field(
        kind={"categorical": kinds.CATEGORICAL, "bag": kinds.BAG, "numeric": kinds.NUMERIC}[field.kind],
        start=start,
        width=field.width,
        buckets=(getattr(field, "buckets", None) or 0) if indexed else 0,
        is_log=getattr(field, "log", False),
        mean=getattr(field, "mean", math.nan),
        scale=getattr(field, "scale", math.nan),
        vocabulary=getattr(field, "vocabulary", None) or (),
    )


def core_state(state: State) -> "core.StateRule":
    """Return the core's form of how counts become features."""
    return core.StateRule(
        smoothing=state.strength * state.prior,
        strength=state.strength,
        prior_log_odds=float(np.log(state.prior / (1.0 - state.prior))),
        age_cap_s=state.age_cap_s,
    )


def encode_field(field: ValueField, values: Sequence[Value]) -> NDArray[np.int32] | NDArray[np.float32]:
    """[n] canonical values → [n, field.width] columns of the field's tensor: a word's row of the embedding table;
    of a bag the first words, padded with 0; a number standardised, limited to ±10, and whether it is missing."""
    encoded = _encoder(field).encode(list(values))
    shape = len(values), field.width
    if field.kind == "numeric":
        return np.frombuffer(encoded, np.float32).reshape(shape)
    return np.frombuffer(encoded, np.int32).reshape(shape)


@lru_cache(256)
def _encoder(field: ValueField) -> "core.FieldEncoder":
    _need_core()
    return core.FieldEncoder(core_field(field, 0), core_ufuncs())


def encode_record(
    schema: FeatureSchema, side: Side, values: Mapping[str, Value]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Canonical values by field name → categorical [1, C] and numeric [1, 2 × numerics]: `encode_side` of one."""
    return encode_side(schema, side, {name: [value] for name, value in values.items()}, 1)


def encode_side(
    schema: FeatureSchema, side: Side, columns: Mapping[str, Sequence[Value]], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Canonical columns by field name → categorical [count, C] and numeric [count, 2 × numerics] of one side.

    A field without a column is missing throughout. Raises SchemaError when a column has another length; MsdError
    without the native core.
    """
    categorical = np.zeros((count, schema.categorical_width(side)), np.int32)
    numeric = np.zeros((count, schema.numeric_width(side)), np.float32)
    for target, fields in ((categorical, schema.indexed(side)), (numeric, schema.numerics(side))):
        for field in fields:
            values = columns.get(field.name, [None] * count)
            if len(values) != count:
                raise SchemaError(f"field {field.name!r} has {len(values)} values, expected {count}")
            target[:, schema.columns[field.name]] = encode_field(field, values)
    return categorical, numeric


def encode_counts(state: State, counts: Counts, at: ArrayLike) -> NDArray[np.float32]:
    """Return the features [n, 3] of counts [n] as seen at `at` [n] (Unix s): see `schema.STATE_FEATURES`.

    The click rate is smoothed towards the prior as if `strength` impressions had shown it, and given as log-odds above
    the prior's. The age is clip(at − as_of, 0, age_cap).
    """
    shape = np.broadcast_shapes(counts.as_of.shape, np.shape(at))
    columns = (np.ascontiguousarray(np.broadcast_to(one, shape), np.float64) for one in (*counts, at))
    features = np.empty((*shape, len(STATE_FEATURES)), np.float32)
    told = dict(zip(("impressions", "clicks", "as_of", "at"), columns, strict=True))
    _need_core()
    core.encode_counts(rule=core_state(state), ufuncs=core_ufuncs(), features=features, **told)
    return features


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
        whole[:, filled : filled + len(STATE_FEATURES)] = encode_counts(state, counts, at)
    if schema.semantic(side):
        whole[:, -1] = present
    return whole


def hash_texts(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash of each text [n], as of a word without a vocabulary: FNV-1a over its code points but NUL, finished
    with MurmurHash3's 64-bit mixer."""
    _need_core()
    return np.frombuffer(core.hash_texts(list(texts)), np.uint64)


def _need_core() -> None:
    if core is None:
        raise MsdError(f"values are encoded by the native core: {REASON}")
