"""A name outside stands for the columns that the encoding fills for it."""

from typing import Any

import numpy as np
import pytest

from model_export.foreign.columns import named_columns
from msd.contract.encode import encode_side
from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, Semantic, Sequence, State

SCHEMA = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True, buckets=20),
        Sequence(name="history", length=4),
        Categorical(name="item_id", side="item", is_id=True, vocabulary=("a", "b")),
        Bag(name="genres", side="item", vocabulary=("x", "y", "z"), max_values=3),
        Numeric(name="price", side="item"),
        Numeric(name="weight", side="item"),
        State(name="item_counts", side="item", prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6),
        Semantic(name="item_semantic", side="item", dim=8),
        Categorical(name="hour", side="context", vocabulary=("0", "1")),
    )
)
VALUES: dict[str, list[Any]] = {
    "item_id": ["b", "a"],
    "genres": [("x", "z"), None],
    "price": [2.0, None],
    "weight": [None, -3.0],
}


@pytest.mark.parametrize("name", ["item_id", "genres", "price", "weight"])
def test_a_feature_is_what_the_encoding_of_its_values_alone_fills(name: str) -> None:
    whole, alone = (encode_side(SCHEMA, "item", values, 2) for values in (VALUES, {name: VALUES[name]}))
    columns = named_columns(SCHEMA)
    found, expected = (
        columns[name].of({"item_categorical": categorical, "item_dense": numeric})
        for categorical, numeric in (whole, alone)
    )
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (2, columns[name].width)
    # No other name has them.
    others = (columns[other].of({"item_categorical": alone[0], "item_dense": alone[1]}) for other in VALUES)
    missing = encode_side(SCHEMA, "item", {}, 2)
    nothing = (columns[other].of({"item_categorical": missing[0], "item_dense": missing[1]}) for other in VALUES)
    changed = [other for other, one, none in zip(VALUES, others, nothing, strict=True) if not np.array_equal(one, none)]
    assert changed == [name]


def test_tensors_counts_and_the_historys_items_have_names_too() -> None:
    columns = named_columns(SCHEMA)
    tensors = {
        "history_categorical": np.arange(16).reshape(1, 4, 4),
        "item_dense": np.arange(8.0)[None],
        "item_semantic": np.arange(8.0)[None],
    }
    assert columns["history_item_id"].of(tensors).tolist() == [[[0], [4], [8], [12]]]
    assert columns["history_genres"].of(tensors)[0, 1].tolist() == [5, 6, 7]
    assert columns["item_counts"].of(tensors).tolist() == [[4.0, 5.0, 6.0]]
    assert columns["item_semantic"].of(tensors).shape == (1, 8)
    assert {spec.name for spec in SCHEMA.tensors} <= columns.keys()
    assert columns["price"].optional == 1


def test_a_feature_called_as_a_tensor_gives_way_to_it() -> None:
    fields = (*SCHEMA.fields, Categorical(name="item_dense", side="context", vocabulary=("q",)))
    columns = named_columns(FeatureSchema(fields=fields))
    assert columns["item_dense"].tensor.side == "item"
