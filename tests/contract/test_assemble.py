"""The merge of request and rows: what is given goes first, the rest is stored, and no candidate depends on another."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from msd.contract.assemble import Tensors, assemble, encode_impressions, wanted_items
from msd.contract.encode import encode_state
from msd.contract.request import parse_request
from msd.contract.rows import RowCodec, has_semantic, pack_history
from msd.contract.schema import Categorical, FeatureSchema, Numeric, Sequence
from msd.contract.state import Impression
from tests.contract.examples import AT, BUNDLE_ID, ITEMS, SCHEMA, USERS, clicked, make_records

LENGTH = SCHEMA.history.length
ITEM_ROWS = {f"i{place}": record.tobytes() for place, record in enumerate(make_records(ITEMS, 20))}
HISTORY = ["i3", "gone", "i5"]
SEEN = [Impression(AT - 172_800, "i3", 2.0, 1.0), Impression(AT - 86_400, "gone"), Impression(AT, "i5", 16.0, 0.0)]
USER_ROWS = {
    "u0": make_records(USERS, 1)[0].tobytes() + pack_history(clicked(*HISTORY)),
    "long": make_records(USERS, 2)[1].tobytes() + pack_history(clicked(*["gone", "i1"] * 9, "i2", "gone")),
    "seen": make_records(USERS, 3)[2].tobytes() + pack_history(SEEN),
}
COLD = ["new", "newer"]


def merge(**document: Any) -> Tensors:  # noqa: ANN401
    """A request, by default of u0 for i1, merged with the rows above."""
    body = json.dumps({"user_id": "u0", "candidates": {"id": ["i1"]}, **document}).encode()
    request = parse_request(body, SCHEMA)
    user = USERS.unpack([USER_ROWS.get(request.user_id)])
    items = ITEMS.unpack([ITEM_ROWS.get(item_id) for item_id in wanted_items(request, user)])
    return assemble(SCHEMA, request, AT, user, items)


def tensor(name: str, **document: Any) -> NDArray[Any]:  # noqa: ANN401
    return merge(**document)[name]


def differing(first: Tensors, other: Tensors) -> set[str]:
    assert list(first) == list(other)
    return {name for name in first if not np.array_equal(first[name], other[name])}


def test_tensors_are_those_of_the_schema() -> None:
    tensors = merge(candidates={"id": ["i1", "i2", "new"]})

    assert list(tensors) == [spec.name for spec in SCHEMA.tensors]
    for spec in SCHEMA.tensors:
        assert tensors[spec.name].shape == (3 if spec.side == "item" else 1, *spec.shape)
        assert tensors[spec.name].dtype == spec.dtype
        assert tensors[spec.name].flags["C_CONTIGUOUS"]


def test_stored_values_are_unchanged() -> None:
    tensors, row = merge(), ITEMS.unpack([ITEM_ROWS["i1"]]).records

    assert tensors["item_categorical"].tolist() == row["categorical"].tolist()
    assert tensors["item_semantic"].tolist() == row["semantic"].astype(np.float32).tolist()
    assert tensors["item_dense"][:, :2].tolist() == row["numeric"].tolist()
    state = SCHEMA.state("item")
    assert state
    counts = encode_state(state, row["impressions"], row["clicks"], row["as_of"], AT)
    assert tensors["item_dense"][:, 2:].tolist() == [[*counts[0].tolist(), 1.0]]


# Which tensor a given value reaches, and what becomes of its columns there.
OVERRIDES: dict[str, tuple[str, object, str, list[float]]] = {
    "category": ("gender", "m", "user_categorical", [3]),
    "unknown category": ("gender", "?", "user_categorical", [1]),
    "category missing": ("gender", None, "user_categorical", [0]),
    "bag": ("interests", ["games", "?"], "user_categorical", [4, 1, 0]),
    "bag missing": ("interests", None, "user_categorical", [0, 0, 0]),
    "bag empty": ("interests", [], "user_categorical", [0, 0, 0]),
    "number": ("age", 47, "user_dense", [1, 0]),
    "number missing": ("age", None, "user_dense", [0, 1]),
}


@pytest.mark.parametrize("user_id", ["u0", "nobody"])
@pytest.mark.parametrize("name", OVERRIDES)
def test_given_value_replaces_only_its_columns(name: str, user_id: str) -> None:
    feature, value, target, columns = OVERRIDES[name]
    stored = merge(user_id=user_id)
    given_too = merge(user_id=user_id, user={"features": {feature: value}})

    expected = stored[target].copy()
    expected[0, SCHEMA.columns[feature]] = columns
    np.testing.assert_array_equal(given_too[target], expected)
    assert all(np.array_equal(stored[other], given_too[other]) for other in stored if other != target)


def test_item_values_reach_only_its_candidates() -> None:
    ids = ["i1", "i2", "i1"]
    stored = tensor("item_categorical", candidates={"id": ids})
    given_too = tensor("item_categorical", candidates={"id": ids}, items={"i1": {"features": {"category": "games"}}})

    assert given_too[:, 1].tolist() == [3, stored[1, 1], 3]
    np.testing.assert_array_equal(np.delete(given_too, 1, axis=1), np.delete(stored, 1, axis=1))
    # Not the history, which has i3, too.
    described = merge(candidates={"id": ["i3"]}, items={"i3": {"features": {"category": "travel", "price": 3}}})
    assert differing(merge(candidates={"id": ["i3"]}), described) == {"item_categorical", "item_dense"}


def categories(history: list[str]) -> list[list[int]]:
    """The first tensor of a history of items, as far as they are known."""
    known = [ITEM_ROWS[item_id] for item_id in history if item_id in ITEM_ROWS][-LENGTH:]
    rows: list[list[int]] = ITEMS.unpack(known).records["categorical"].tolist()
    return rows + [[0] * SCHEMA.categorical_width("item")] * (LENGTH - len(known))


@pytest.mark.parametrize(
    ("document", "history"),
    [
        ({}, HISTORY),
        ({"user_id": "nobody"}, []),
        ({"user": {"history": []}}, []),
        ({"user": {"history": None}}, HISTORY),
        ({"user": {"history": ["i7"]}}, ["i7"]),
        ({"user": {"history": ["i7", "?", "i8", "i7"]}}, ["i8", "i7"]),
        ({"user_id": "nobody", "user": {"history": ["i1", "i2"]}}, ["i1", "i2"]),
        ({"user": {"history": ["?"] * 1_000}}, []),
        ({"user_id": "long"}, ["i1"] * (LENGTH - 1) + ["i2"]),
    ],
)
def test_history_loses_unknown_ids_before_it_is_cut(document: dict[str, Any], history: list[str]) -> None:
    tensors = merge(**document)
    filled = min(LENGTH, sum(item_id in ITEM_ROWS for item_id in history))

    assert tensors["history_categorical"].tolist() == [categories(history)]
    assert tensors["history_mask"].tolist() == [[1.0] * filled + [0.0] * (LENGTH - filled)]
    assert not tensors["history_semantic"][0, filled:].any()


@given(st.lists(st.sampled_from(["i1", "i2", "i3", "?"]), max_size=3 * LENGTH))
def test_any_history(history: list[str]) -> None:
    once = [item_id for place, item_id in enumerate(history) if item_id not in history[place + 1 :]]
    assert tensor("history_categorical", user={"history": history}).tolist() == [categories(once)]


def log_odds(*item_ids: str) -> list[float]:
    """What the rows' own counts say of items."""
    state, rows = SCHEMA.state("item"), ITEMS.unpack([ITEM_ROWS[item_id] for item_id in item_ids]).records
    assert state
    odds: list[float] = encode_state(state, rows["impressions"], rows["clicks"], rows["as_of"], AT)[:, 0].tolist()
    return odds


@pytest.mark.parametrize(
    ("document", "outcomes"),
    [
        ({"user_id": "seen"}, {"i3": (2, 1, 2), "i5": (8, 0, 0)}),
        ({"user": {"history": ["i7"]}}, {"i7": (1, 1, 0)}),
        (
            {
                "user": {
                    "history": [
                        "i7",
                        {"item_id": "i8", "clicked": False, "at": AT + 60},
                        {"item_id": "i9", "clicked": True, "at": AT - 43_200},
                        {"item_id": "i9", "clicked": False, "at": AT - 86_400},
                        {"item_id": "i7", "clicked": False},
                    ]
                }
            },
            {"i8": (1, 0, 0), "i9": (2, 1, 0.5), "i7": (2, 1, 0)},
        ),
        ({"user": {"history": [{"item_id": "i7", "clicked": False, "at": 0}] * 900}}, {"i7": (8, 0, AT / 86_400)}),
        ({"user_id": "nobody"}, {}),
    ],
)
def test_outcomes_are_impressions_clicks_age_and_log_odds(
    document: dict[str, Any], outcomes: dict[str, tuple[float, float, float]]
) -> None:
    tensors = merge(**document)
    odds = log_odds(*outcomes)
    rows = [
        [*np.array(outcome, np.float32).tolist(), odd] for outcome, odd in zip(outcomes.values(), odds, strict=True)
    ]
    empty = LENGTH - len(rows)

    assert tensors["history_categorical"].tolist() == [categories(list(outcomes))]
    assert tensors["history_outcomes"].tolist() == [rows + [[0.0] * 4] * empty]
    assert tensors["history_mask"].tolist() == [[float(row[1] > 0) for row in rows] + [0.0] * empty]


def test_poisoned_numbers_of_impressions_are_bounded() -> None:
    shown, clicks, age_s = np.array([[1e5, 1e5, 0, 0], [1e5, 0, 3, 0], [-9, 1e15, 0, -np.inf]], np.float64)
    encoded = encode_impressions(shown, clicks, age_s)

    assert encoded.tolist() == [[8, 8, 0], [8, 0, 36_500], [3, 3, 0], [np.float32(1e-6), 0, 0]]


@given(st.lists(st.sampled_from([*list(ITEM_ROWS)[:6], *COLD]), min_size=1, max_size=12))
def test_candidates_do_not_depend_on_each_other(ids: list[str]) -> None:
    described = {item_id: {"features": {"price": 2.5, "genres": ["a"]}} for item_id in ("i1", "new") if item_id in ids}
    together = merge(candidates={"id": ids}, items=described)
    for place, item_id in enumerate(ids):
        alone = merge(
            candidates={"id": [item_id]}, items={key: value for key, value in described.items() if key == item_id}
        )
        for name, values in alone.items():
            same = together[name][place : place + 1] if name.startswith("item_") else together[name]
            np.testing.assert_array_equal(same, values)


def test_encoded_text_goes_with_features_of_the_request() -> None:
    """Vector and features count; counts are those of an item that nobody knows; a history never has it."""
    vector = np.arange(8, dtype=np.float16)[None]
    document: dict[str, Any] = {
        "user_id": "u0",
        "candidates": {"id": ["new", "i1", "new", "other"]},
        "user": {"history": ["i3", "new"]},
        "items": {"new": {"text": "a tent", "features": {"category": "games"}}},
    }
    plain = merge(**document)
    request = parse_request(json.dumps(document).encode(), SCHEMA)
    user = USERS.unpack([USER_ROWS["u0"]])
    rows = {**ITEM_ROWS, "new": ITEMS.encoded(vector)[0].tobytes()}
    merged = assemble(SCHEMA, request, AT, user, ITEMS.unpack([rows.get(id_) for id_ in wanted_items(request, user)]))

    assert differing(merged, plain) == {"item_semantic", "item_dense"}
    assert np.array_equal(merged["item_semantic"][[0, 2]], vector.repeat(2, axis=0))
    dense_of = [assembled["item_dense"] for assembled in (merged, plain)]
    assert np.array_equal(dense_of[0][:, :-1], dense_of[1][:, :-1])
    assert dense_of[0][:, -1].tolist() == [1, float(has_semantic(ITEMS.unpack([ITEM_ROWS["i1"]]).records)[0]), 1, 0]


def test_context_is_that_of_the_request_and_serving_constants() -> None:
    merged = merge(context={"hour": 0, "temperature": 25.0})

    assert merged["context_categorical"].tolist() == [[2, 0, 2]]  # position is "1", its first value
    assert merged["context_dense"].tolist() == [[1, 0]]
    assert merge(context={"hour": 0}, slot=3)["context_categorical"].tolist() == [[2, 0, 4]]
    assert merge(slot=9)["context_categorical"].tolist() == [[0, 0, 1]]  # no training row was shown there
    assert tensor("context_categorical").tolist() == [[0, 0, 2]]
    assert tensor("context_dense").tolist() == [[0, 1]]


def test_serving_constant_may_be_a_number() -> None:
    fields = (
        Sequence(name="history", length=1),
        Categorical(name="item_id", side="item", is_id=True, buckets=4),
        Numeric(name="position", side="context", mean=1.0, scale=2.0, serving_value=5.0),
    )
    schema = FeatureSchema(fields=fields)
    request = parse_request(b'{"user_id": "u", "candidates": {"id": ["i"]}}', schema)
    user, item = RowCodec(schema, "user", BUNDLE_ID).unpack([None]), RowCodec(schema, "item", BUNDLE_ID).unpack([None])
    merged = assemble(schema, request, AT, user, item)

    assert merged["context_dense"].tolist() == [[2.0, 0.0]]
    placed = assemble(schema, replace(request, slot=2), AT, user, item)
    assert placed["context_dense"].tolist() == [[0.5, 0.0]]
    assert (schema.slot_of(), schema.slot_of(2)) == (5, 2)
