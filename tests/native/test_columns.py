"""The core's columns of many values: those of the reference, one by one or together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.encode import Value, canonical
from msd.contract.errors import SchemaError
from msd.contract.schema import SIDES, Bag, Categorical, Numeric, State, ValueField
from native.columns import Counts, encode_counts, encode_field, encode_side, hash_texts
from tests.contract.examples import AT, SCHEMA
from tests.reference import schema as reference

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["a", "b", "cars", "1", "a\0"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
KINDS: dict[str, tuple[ValueField, st.SearchStrategy[Value]]] = {
    "vocabulary": (Categorical(name="f", side="item", vocabulary=("a", "b")), st.none() | WORDS),
    "buckets": (Categorical(name="f", side="item", buckets=7), st.none() | WORDS),
    "bag": (Bag(name="f", side="item", vocabulary=("a", "b"), max_values=3), st.none() | st.lists(WORDS).map(tuple)),
    "hashed bag": (Bag(name="f", side="item", buckets=7, max_values=3), st.none() | st.lists(WORDS).map(tuple)),
    "numeric": (Numeric(name="f", side="item", mean=3.0, scale=2.0), st.none() | NUMBERS),
    "logarithm": (Numeric(name="f", side="item", log=True, mean=-1.0, scale=0.1), st.none() | NUMBERS),
    "tiny scale": (Numeric(name="f", side="item", mean=-1e308, scale=5e-324), st.none() | NUMBERS),
}
STATE = State(name="counts", side="item", prior=0.1, strength=20.0, half_life_s=60.0, age_cap_s=864_000.0)
HASHES = {
    "": 17280346270528514342,
    "a": 9413272369427828315,
    "user-42": 11787383432861261453,
    "straße": 12691612566097651814,
    "😀": 16106665261113655964,
    "x" * 256: 5333078883861739746,
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_values_are_those_of_the_reference_and_do_not_depend_on_their_batch(kind: str, data: st.DataObject) -> None:
    field, values = KINDS[kind]
    column = data.draw(st.lists(values, max_size=8))
    together = encode_field(field, column)

    assert together.shape == (len(column), field.width)
    assert together.dtype == (np.float32 if field.kind == "numeric" else np.int32)
    for row, value in zip(together, column, strict=True):
        assert canonical(field, value) == value
        # To the last bit, the sign of zero included.
        assert encode_field(field, [value])[0].tobytes() == row.tobytes()
        listed = list(value) if isinstance(value, tuple) else value
        assert row.tolist() == np.array(reference.encode(field.model_dump(), listed), together.dtype).tolist()


def test_hashes_are_those_of_every_bundle_so_far() -> None:
    assert hash_texts(list(HASHES)).tolist() == list(HASHES.values())
    assert hash_texts([]).shape == (0,)


def test_not_a_number_is_missing_and_further_words_have_no_effect() -> None:
    assert encode_field(KINDS["numeric"][0], [float("nan")]).tolist() == [[0, 1]]
    assert encode_field(KINDS["bag"][0], [("?", "b", "a", "a")]).tolist() == [[1, 3, 2]]


def test_side_has_its_fields_in_their_columns_and_rejects_wrong_lengths() -> None:
    categorical, numeric = encode_side(SCHEMA, "user", {"gender": ["m", None], "interests": [("food",), None]}, 2)
    assert categorical.tolist() == [[0, 3, 3, 0, 0], [0, 0, 0, 0, 0]]
    assert numeric.tolist() == [[0, 1], [0, 1]]
    for side in SIDES:
        assert [part.shape[0] for part in encode_side(SCHEMA, side, {}, 0)] == [0, 0]
    with pytest.raises(SchemaError, match="'gender' has 1 values, expected 2"):
        encode_side(SCHEMA, "user", {"gender": ["m"]}, 2)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1), st.floats(0, 1e11)), min_size=1), st.floats(0, 1e11))
def test_counts_are_those_of_the_reference(rows: list[tuple[float, float, float]], at: float) -> None:
    shown, rate, as_of = np.array(rows).T
    together = encode_counts(STATE, Counts(shown, shown * rate, as_of), at)

    for row, impressions, clicks, then in zip(together, shown, shown * rate, as_of, strict=True):
        due = reference.encode_counts(STATE.model_dump(), float(impressions), float(clicks), float(then), at)
        np.testing.assert_array_equal(row, np.array(due, np.float32))


def test_age_is_limited() -> None:
    ages = encode_counts(STATE, Counts(np.ones(3), np.zeros(3), np.array([AT + 500, AT - 864_000, 0])), AT)[:, 2]
    assert ages.tolist() == pytest.approx([0, np.log(11), np.log(11)])
