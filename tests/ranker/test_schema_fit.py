"""The schema learns from window and train rows alone, and equal data gives an equal schema."""

from typing import TypeVar

import numpy as np
import polars as pl
import pytest

from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, SchemaField
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.schema_fit import fit_schema
from tests.ranker.made import Columns, Row, dataset_of

F = TypeVar("F", bound=SchemaField)


def _field(schema: FeatureSchema, name: str, kind: type[F]) -> F:
    field = next(field for field in schema.fields if field.name == name)
    assert isinstance(field, kind)
    return field


# Ten events of one user, so that eight train, and one each is valid and test.
ROWS: list[Row] = [("u", f"i{n // 2 if n < 8 else n}", 100 * n, n % 2) for n in range(10)]


def _feature(name: str, side: str, kind: str, **rest: object) -> dict[str, object]:
    return {"name": name, "side": side, "kind": kind, **rest}


def test_vocabularies_are_training_values_by_frequency() -> None:
    device = ["b", "a", "a", "c", "b", "a", None, "b", "late", "late"]
    schema = fit_schema(
        dataset_of(ROWS, events={"device": device}, features=[_feature("device", "context", "categorical")])
    )
    # a and b occur three times each: their text decides.
    assert _field(schema, "device", Categorical).vocabulary == ("a", "b", "c")
    assert _field(schema, "item_id", Categorical).vocabulary == ("i0", "i1", "i2", "i3")
    assert _field(schema, "user_id", Categorical).vocabulary == ("u",)
    # Rare values are unknown.
    feature = _feature("device", "context", "categorical", min_count=2)
    schema = fit_schema(dataset_of(ROWS, events={"device": device}, features=[feature], ids={"min_count": 3}))
    assert _field(schema, "device", Categorical).vocabulary == ("a", "b")
    assert _field(schema, "item_id", Categorical).vocabulary == ()


def test_hashed_fields_have_no_vocabulary() -> None:
    feature = _feature("device", "context", "categorical", buckets=16)
    dataset = dataset_of(ROWS, events={"device": ["a"] * 10}, features=[feature], ids={"buckets": 32})
    schema = fit_schema(dataset)
    for name, buckets in (("device", 16), ("user_id", 32), ("item_id", 32)):
        field = _field(schema, name, Categorical)
        assert (field.vocabulary, field.buckets) == ((), buckets)
    assert _field(schema, "item_id", Categorical).is_id


def test_item_features_are_fitted_on_trained_items() -> None:
    items: Columns = {
        "item_id": ["i0", "i1", "i2", "i3", "i8", "never"],
        "genres": [["x", "y"], ["x"], [], None, ["late"], ["nobody"]],
        "price": [1.0, 3.0, None, 5.0, 1e6, -1e6],
    }
    features = [_feature("genres", "item", "bag", max_values=3), _feature("price", "item", "numeric")]
    schema = fit_schema(dataset_of(ROWS, items=items, features=features))
    genres = _field(schema, "genres", Bag)
    assert (genres.vocabulary, genres.max_values) == (("x", "y"), 3)
    price = _field(schema, "price", Numeric)
    assert price.mean == pytest.approx(3.0)
    assert price.scale == pytest.approx(np.std([1, 3, 5]))


def test_numbers_are_standardised_after_the_logarithm() -> None:
    values = [-7.0, 0.0, 1.0, 3.0, 7.0, 15.0, None, 0.0, 1e9, 1e9]
    dataset = dataset_of(ROWS, events={"n": values}, features=[_feature("n", "context", "numeric", log=True)])
    seen = np.array([-3.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0]) * np.log(2)
    field = _field(fit_schema(dataset), "n", Numeric)
    assert [field.mean, field.scale] == pytest.approx([seen.mean(), seen.std()])


@pytest.mark.parametrize("values", [[4.0] * 10, [None] * 8 + [1.0, 2.0]])
def test_constant_number_has_scale_one(values: list[float | None]) -> None:
    events = {"n": pl.Series(values, dtype=pl.Float64).to_list()}
    dataset = dataset_of(ROWS, events=events, features=[_feature("n", "context", "numeric")])
    field = _field(fit_schema(dataset), "n", Numeric)
    assert field.scale == 1.0
    assert field.mean == (values[0] or 0.0)


def test_position_that_no_row_tells_is_left_out() -> None:
    """Requests would be served by an embedding that nothing trained."""
    features = [_feature("position", "context", "categorical", serving_value=1), _feature("hour", "context", "numeric")]
    events: Columns = {"position": [None] * 10, "hour": [None] * 10}
    schema = fit_schema(dataset_of(ROWS, events=events, features=features))
    assert (schema.serving_constants, schema.position, schema.slot_of(2)) == ({}, None, None)
    assert set(schema.settable["context"]) == {"hour"}


def test_serving_values_are_carried_over() -> None:
    features = [
        _feature("position", "context", "categorical", serving_value=1),
        _feature("depth", "context", "numeric", serving_value=2),
    ]
    events: Columns = {"position": ["3"] * 10, "depth": [float(n) for n in range(10)]}
    schema = fit_schema(dataset_of(ROWS, events=events, features=features))
    assert schema.serving_constants == {"position": "1", "depth": 2.0}
    assert not {"position", "depth"} & schema.settable["context"].keys()


def test_prior_is_the_training_click_rate() -> None:
    rows: list[Row] = [(user, item, at, int(at < 200)) for user, item, at, _ in ROWS]
    state = fit_schema(dataset_of(rows, counts={"prior_strength": 7, "half_life_days": 2, "age_cap_days": 5})).state(
        "item"
    )
    assert state is not None
    assert (state.prior, state.strength) == (0.25, 7.0)
    assert (state.half_life_s, state.age_cap_s) == (2 * 86_400, 5 * 86_400)


def test_schema_hash_depends_on_training_rows_alone(tiny: Dataset) -> None:
    first = fit_schema(tiny)
    assert fit_schema(tiny).schema_hash == first.schema_hash
    parts = split_events(tiny.events, tiny.config)
    late = pl.Series(parts > Part.TRAIN)
    changed = tiny.events.with_columns(
        label=pl.when(late).then(1 - pl.col("label")).otherwise(pl.col("label")).cast(pl.Int8),
        device=pl.when(late).then(pl.lit("telephone box")).otherwise(pl.col("device")),
        hour=pl.when(late).then(99.0).otherwise(pl.col("hour")),
    )
    later = Dataset(tiny.config, tiny.folder, changed, tiny.items, tiny.users, tiny.fingerprint)
    assert fit_schema(later).schema_hash == first.schema_hash
    early = tiny.events.with_columns(device=pl.lit("telephone box"))
    other = Dataset(tiny.config, tiny.folder, early, tiny.items, tiny.users, tiny.fingerprint)
    assert fit_schema(other).schema_hash != first.schema_hash


def test_schema_without_semantics_lacks_only_vectors(tiny: Dataset) -> None:
    whole, plain = fit_schema(tiny), fit_schema(tiny, semantics=False)
    assert [field for field in whole.fields if field.kind != "semantic"] == list(plain.fields)
    assert not [spec.name for spec in plain.tensors if "semantic" in spec.name]
    assert {spec.name for spec in whole.tensors} - {spec.name for spec in plain.tensors} == {
        "user_semantic",
        "item_semantic",
        "history_semantic",
    }
