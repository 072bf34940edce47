"""A schema decides where every value goes; what it says may not drift, and what makes no sense is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, SchemaField, Semantic, Sequence, State
from tests.contract.examples import SCHEMA

HISTORY = Sequence(name="history", length=3)
COUNTS: dict[str, Any] = {"prior": 0.1, "strength": 1.0, "half_life_s": 1.0, "age_cap_s": 1.0}


def test_tensors_of_the_schema_have_columns() -> None:
    assert [(spec.name, spec.side, spec.dtype, spec.shape) for spec in SCHEMA.tensors] == [
        ("user_categorical", "user", "int32", (5,)),  # id, gender, three interests
        ("user_dense", "user", "float32", (6,)),  # age and its flag, three of counts, presence of a vector
        ("user_semantic", "user", "float32", (8,)),
        ("item_categorical", "item", "int32", (4,)),
        ("item_dense", "item", "float32", (6,)),
        ("item_semantic", "item", "float32", (8,)),
        ("context_categorical", "context", "int32", (3,)),
        ("context_dense", "context", "float32", (2,)),
        ("history_categorical", "user", "int32", (6, 4)),
        ("history_semantic", "user", "float32", (6, 8)),
        ("history_mask", "user", "float32", (6,)),
        ("history_outcomes", "user", "float32", (6, 4)),
    ]
    schema = FeatureSchema(fields=(HISTORY, Categorical(name="id", side="item", is_id=True, buckets=4)))
    assert [spec.name for spec in schema.tensors] == [
        *("item_categorical", "history_categorical", "history_mask", "history_outcomes")
    ]


def test_columns_follow_the_order_of_fields() -> None:
    places = {name: (place.start, place.stop) for name, place in SCHEMA.columns.items()}

    assert places == {
        "user_id": (0, 1), "gender": (1, 2), "interests": (2, 5), "age": (0, 2),
        "item_id": (0, 1), "category": (1, 2), "genres": (2, 4), "price": (0, 2),
        "hour": (0, 1), "device": (1, 2), "position": (2, 3), "temperature": (0, 2),
    }  # fmt: skip


def test_settable_features_and_serving_constants() -> None:
    assert {side: list(fields) for side, fields in SCHEMA.settable.items()} == {
        "user": ["gender", "interests", "age"],
        "item": ["category", "genres", "price"],
        "context": ["hour", "device", "temperature"],
    }
    assert SCHEMA.serving_constants == {"position": "1"}


def test_sizes_of_embedding_tables() -> None:
    vocabulary = Categorical(name="a", side="user", vocabulary=("x", "y"))

    assert (vocabulary.size, vocabulary.index) == (4, {None: 0, "x": 2, "y": 3})
    assert Bag(name="b", side="user", buckets=16, max_values=2).size == 17
    assert Categorical(name="c", side="user").size == 2


def test_schema_hash_is_that_of_every_bundle_so_far() -> None:
    schema = FeatureSchema(fields=(HISTORY, Numeric(name="price", side="item", log=True)), item_text="{title}")

    assert schema.schema_hash == "04c70e23415fb6c26be2b7a06c0916aff90a75427ced24d1f12449bea4527644"


def test_copy_is_equal_and_the_hash_depends_on_order_and_texts() -> None:
    copy = FeatureSchema.model_validate_json(SCHEMA.model_dump_json())
    used = (SCHEMA.tensors, SCHEMA.columns, SCHEMA.history, SCHEMA.settable, SCHEMA.schema_hash)

    assert used
    with pytest.raises(ValidationError, match="frozen"):
        SCHEMA.item_text = ""
    assert copy == SCHEMA
    assert copy.schema_hash == SCHEMA.schema_hash
    assert copy.tensors == SCHEMA.tensors
    reordered = FeatureSchema(fields=SCHEMA.fields[::-1], item_text=SCHEMA.item_text)
    renamed = FeatureSchema(fields=SCHEMA.fields, item_text="{title}.")
    assert len({SCHEMA.schema_hash, reordered.schema_hash, renamed.schema_hash}) == 3


REFUSED: dict[str, tuple[tuple[SchemaField, ...], str]] = {
    "no history": ((), "exactly one sequence field"),
    "two histories": ((HISTORY, Sequence(name="more", length=2)), "exactly one sequence field"),
    "a name twice": ((HISTORY, Numeric(name="a", side="user"), Numeric(name="a", side="item")), "occur twice: a"),
    "two vectors on a side": (
        (HISTORY, Semantic(name="a", side="item", dim=2), Semantic(name="b", side="item", dim=2)),
        "more than one semantic field on the item side",
    ),
    "two counts on a side": (
        (HISTORY, State(name="a", side="user", **COUNTS), State(name="b", side="user", **COUNTS)),
        "more than one state field on the user side",
    ),
    "vectors that differ": (
        (HISTORY, Semantic(name="a", side="item", dim=2), Semantic(name="b", side="user", dim=3)),
        "differ in dimension",
    ),
    "a serving value off the context": (
        (HISTORY, Categorical(name="a", side="user", serving_value="1")),
        "only a context field",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rejects_fields_that_do_not_go_together(name: str) -> None:
    fields, message = REFUSED[name]

    with pytest.raises(ValidationError, match=message):
        FeatureSchema(fields=fields)


@pytest.mark.parametrize(
    "field",
    [
        {"kind": "categorical", "name": "a", "side": "user", "vocabulary": ["x"], "buckets": 2},
        {"kind": "categorical", "name": "a", "side": "user", "vocabulary": ["x", "x"]},
        {"kind": "categorical", "name": "a", "side": "user", "buckets": 0},
        {"kind": "categorical", "name": "1a", "side": "user"},
        {"kind": "categorical", "name": "a.b", "side": "user"},
        {"kind": "categorical", "name": "a\n", "side": "user"},
        {"kind": "categorical", "name": "a", "side": "ad"},
        {"kind": "bag", "name": "a", "side": "user", "max_values": 0},
        {"kind": "numeric", "name": "a", "side": "user", "scale": 0},
        {"kind": "numeric", "name": "a", "side": "user", "mean": float("nan")},
        {"kind": "numeric", "name": "a", "side": "user", "scale": float("inf")},
        {"kind": "sequence", "name": "a", "side": "item", "length": 3},
        {"kind": "sequence", "name": "a", "length": 0},
        {"kind": "semantic", "name": "a", "side": "context", "dim": 3},
        {"kind": "state", "name": "a", "side": "item", **COUNTS, "prior": 0},
        {"kind": "state", "name": "a", "side": "item", **COUNTS, "half_life_s": 0},
        {"kind": "date", "name": "a", "side": "user"},
        {"kind": "numeric", "name": "a", "side": "user", "min": 0},
    ],
)
def test_rejects_field(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FeatureSchema.model_validate({"fields": [{"kind": "sequence", "name": "h", "length": 1}, field]})
