"""Fit of the schema to a dataset: vocabularies, scales and the prior, from training rows."""

import numpy as np
import polars as pl

from msd.contract.encode import SECONDS_PER_DAY
from msd.contract.rows import RowSide
from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, SchemaField, Semantic, Sequence, State
from msd.dataset.aggregate import count_clicks
from msd.dataset.column import is_anonymous
from msd.dataset.config import FeatureConfig
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events


def fit_schema(dataset: Dataset, *, semantics: bool = True, user_semantics: bool = True) -> FeatureSchema:
    """Fit the schema to the window and train rows. `semantics=False` leaves out the student's vectors,
    `user_semantics=False` those of users."""
    config = dataset.config
    parts = pl.Series("part", split_events(dataset.events, config))
    training = dataset.events.with_columns(parts).lazy().filter(pl.col("part") <= Part.TRAIN)
    seen = {
        "user": _known(dataset.users, "user_id", training),
        "item": _known(dataset.items, "item_id", training),
        "context": training,
    }
    shown, clicks = count_clicks(training)
    prior = float(np.clip(clicks / shown, 1e-4, 1 - 1e-4))
    fields: list[SchemaField] = [_id_field(dataset, training, side) for side in ("user", "item")]
    fields += [_field(one, seen[one.side]) for one in config.features if _is_told(one, seen[one.side])]
    fields.append(Sequence(name="history", length=config.history.length))
    for side in ("user", "item"):
        fields.append(
            State(
                name=f"{side}_counts",
                side=side,
                prior=prior,
                strength=config.counts.prior_strength,
                half_life_s=config.counts.half_life_days * SECONDS_PER_DAY,
                age_cap_s=config.counts.age_cap_days * SECONDS_PER_DAY,
            )
        )
        if semantics and (user_semantics or side == "item"):
            fields.append(Semantic(name=f"{side}_semantic", side=side, dim=config.semantic_dim))
    return FeatureSchema(fields=tuple(fields), item_text=config.items.text)


def _known(table: pl.DataFrame, key: str, training: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows of users or items that training events name."""
    ids = training.select(key).unique().collect(engine="streaming").to_series()
    return table.lazy().filter(pl.col(key).is_in(ids.implode()))


def _id_field(dataset: Dataset, training: pl.LazyFrame, side: RowSide) -> Categorical:
    ids = dataset.config.ids
    name = f"{side}_id"
    known = training.select(name).filter(~is_anonymous(name))
    vocabulary = () if ids.buckets else _vocabulary(known, ids.min_count)
    return Categorical(name=name, side=side, vocabulary=vocabulary, buckets=ids.buckets, is_id=True)


def _is_told(feature: FeatureConfig, table: pl.LazyFrame) -> bool:
    """Return whether the model can learn the feature. One with a serving constant that no row tells, such as the
    position in a log without positions, would be served by weights that nothing trained."""
    return feature.serving_value is None or bool(table.select(pl.col(feature.name).count()).collect().item())


def _field(feature: FeatureConfig, table: pl.LazyFrame) -> SchemaField:
    values = table.select(feature.name)
    if feature.kind == "numeric":
        return _numeric(feature, values)
    flat = values.explode(feature.name) if feature.kind == "bag" else values
    vocabulary = () if feature.buckets else _vocabulary(flat, feature.min_count)
    if feature.kind == "bag":
        return Bag(
            name=feature.name,
            side=feature.side,
            vocabulary=vocabulary,
            buckets=feature.buckets,
            max_values=feature.max_values,
        )
    constant = None if feature.serving_value is None else str(feature.serving_value)
    return Categorical(
        name=feature.name, side=feature.side, vocabulary=vocabulary, buckets=feature.buckets, serving_value=constant
    )


def _numeric(feature: FeatureConfig, values: pl.LazyFrame) -> Numeric:
    numbers = values.drop_nulls().collect(engine="streaming").to_series().to_numpy().astype(np.float64)
    if feature.log:
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    scale = float(numbers.std()) if len(numbers) else 1.0
    return Numeric(
        name=feature.name,
        side=feature.side,
        log=feature.log,
        mean=float(numbers.mean()) if len(numbers) else 0.0,
        scale=scale or 1.0,
        serving_value=None if feature.serving_value is None else float(feature.serving_value),
    )


def _vocabulary(values: pl.LazyFrame, min_count: int) -> tuple[str, ...]:
    """Return a column's values by descending frequency, ties by text, so that equal data gives an equal schema."""
    found = values.drop_nulls().group_by(pl.all()).len().filter(pl.col("len") >= min_count).collect(engine="streaming")
    return tuple(value for value, _ in sorted(found.rows(), key=lambda row: (-row[1], row[0])))
