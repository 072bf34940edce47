"""Encoding is pure and column-wise; one by one equals together, and nothing but the value decides."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.encode import (
    MISSING_INDEX,
    UNKNOWN_INDEX,
    Value,
    canonical,
    encode_bag,
    encode_categorical,
    encode_field,
    encode_numeric,
    encode_side,
    encode_state,
    render_text,
)
from msd.contract.errors import SchemaError
from msd.contract.schema import SIDES, Bag, Categorical, Numeric, State, ValueField
from tests.contract.examples import AT, SCHEMA

WORDS = st.text(max_size=12) | st.sampled_from(["a", "b", "cars", "1"])
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


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_values_fit_their_table_and_do_not_depend_on_their_batch(kind: str, data: st.DataObject) -> None:
    field, values = KINDS[kind]
    column = data.draw(st.lists(values, max_size=8))
    together = encode_field(field, column)

    assert together.shape == (len(column), field.width)
    assert together.dtype == (np.float32 if field.kind == "numeric" else np.int32)
    for row, value in zip(together, column, strict=True):
        assert canonical(field, value) == value
        # To the last bit, the sign of zero included.
        assert encode_field(field, [value])[0].tobytes() == row.tobytes()
        if isinstance(field, Numeric):
            assert abs(row[0]) <= 10
            assert row[1] in (0, 1)
        else:
            assert 0 <= row.min() <= row.max() < field.size


def test_missing_and_unknown_have_own_indices() -> None:
    known, _ = KINDS["vocabulary"]
    assert isinstance(known, Categorical)
    assert encode_categorical(known, [None, "?", "", "a", "b"]).tolist() == [
        MISSING_INDEX, UNKNOWN_INDEX, UNKNOWN_INDEX, 2, 3,
    ]  # fmt: skip
    hashed, _ = KINDS["buckets"]
    assert isinstance(hashed, Categorical)
    assert encode_categorical(hashed, [None]).tolist() == [MISSING_INDEX]
    assert encode_categorical(hashed, [""]).min() > MISSING_INDEX


def test_bags_are_padded_and_cut() -> None:
    field = Bag(name="f", side="item", vocabulary=("a", "b"), max_values=2)
    values: Sequence[Sequence[str] | None] = [None, [], ["b"], ["a", "?"], ["?", "b", "a"]]

    assert encode_bag(field, values).tolist() == [[0, 0], [0, 0], [3, 0], [2, 1], [1, 3]]
    assert encode_bag(field, []).shape == (0, 2)


def test_numbers_are_standardised_and_clipped() -> None:
    field = Numeric(name="f", side="item", mean=1.0, scale=2.0)
    assert encode_numeric(field, [5.0, None, 1.0, 1e300, -1e300]).tolist() == [
        [2, 0],
        [0, 1],
        [0, 0],
        [10, 0],
        [-10, 0],
    ]

    log = Numeric(name="f", side="item", log=True)
    assert encode_numeric(log, [math.e - 1, 1 - math.e, 0.0])[:, 0].tolist() == pytest.approx([1, -1, 0])


CANONICAL: dict[str, tuple[str, object, Value]] = {
    "a word": ("gender", "f", "f"),
    "a whole number is a category": ("hour", 13, "13"),
    "the greatest": ("hour", 2**63 - 1, "9223372036854775807"),
    "nothing": ("hour", None, None),
    "the empty word": ("hour", "", ""),
    "as long as may be": ("hour", "x" * 256, "x" * 256),
    "a list": ("interests", ["cars", 1], ("cars", "1")),
    "a tuple": ("interests", ("cars",), ("cars",)),
    "an empty list": ("interests", [], ()),
    "a number": ("age", 1.5, 1.5),
    "a whole number": ("age", 7, 7.0),
}
NOT_CANONICAL: dict[str, tuple[str, object, str]] = {
    "category false": ("hour", False, "a string or a whole number"),
    "category fraction": ("hour", 1.0, "a string or a whole number"),
    "category list": ("hour", ["1"], "a string or a whole number"),
    "category bytes": ("hour", b"1", "a string or a whole number"),
    "category huge": ("hour", 2**63, "64 bits"),
    "category long": ("hour", "x" * 257, "at most 256 characters"),
    "bag word": ("interests", "cars", "a list"),
    "bag object": ("interests", {"cars": 1}, "a list"),
    "bag null": ("interests", ["cars", None], "a string or a whole number"),
    "bag long": ("interests", ["x" * 257], "at most 256 characters"),
    "number true": ("age", True, "a number"),
    "number word": ("age", "7", "a number"),
    "number nan": ("age", math.nan, "finite"),
    "number infinite": ("age", -math.inf, "finite"),
    "number huge": ("age", 10**400, "finite"),
}


def field_of(name: str) -> ValueField:
    return next(fields[name] for fields in SCHEMA.settable.values() if name in fields)


@pytest.mark.parametrize("name", CANONICAL)
def test_canonical_value(name: str) -> None:
    field, raw, value = CANONICAL[name]
    found = canonical(field_of(field), raw)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_rejects_value(name: str) -> None:
    field, raw, message = NOT_CANONICAL[name]

    with pytest.raises(SchemaError, match=message):
        canonical(field_of(field), raw)


def test_side_has_its_fields_in_their_columns_and_rejects_wrong_lengths() -> None:
    categorical, numeric = encode_side(SCHEMA, "user", {"gender": ["m", None], "interests": [("food",), None]}, 2)
    assert categorical.tolist() == [[0, 3, 3, 0, 0], [0, 0, 0, 0, 0]]
    assert numeric.tolist() == [[0, 1], [0, 1]]
    for side in SIDES:
        assert [part.shape[0] for part in encode_side(SCHEMA, side, {}, 0)] == [0, 0]
    with pytest.raises(SchemaError, match="'gender' has 1 values, expected 2"):
        encode_side(SCHEMA, "user", {"gender": ["m"]}, 2)


def test_counts_become_rate_amount_and_clipped_age() -> None:
    encoded = encode_state(STATE, [0, 80, 80], [0, 8, 40], [AT, AT - 86_400, AT], AT)
    smoothed = (40 + STATE.strength * STATE.prior) / (80 + STATE.strength)
    above = math.log(smoothed / (1 - smoothed)) - math.log(STATE.prior / (1 - STATE.prior))

    expected = [[0.0, 0.0, 0.0], [0.0, math.log(81), math.log(2)], [above, math.log(81), 0.0]]
    np.testing.assert_allclose(encoded, expected, rtol=1e-6, atol=1e-7)
    ages = encode_state(STATE, [1, 1, 1], [0, 0, 0], [AT + 500, AT - 864_000, 0], AT)[:, 2]
    assert ages.tolist() == pytest.approx([0, math.log(11), math.log(11)])


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1), st.floats(0, 1e11)), min_size=1), st.floats(0, 1e11))
def test_counts_do_not_depend_on_their_batch(rows: list[tuple[float, float, float]], at: float) -> None:
    shown, rate, as_of = np.array(rows).T
    together = encode_state(STATE, shown, shown * rate, as_of, at)

    assert np.isfinite(together).all()
    for place, row in enumerate(together):
        alone = encode_state(STATE, shown[place], (shown * rate)[place], as_of[place], at)
        np.testing.assert_array_equal(alone, row)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}, {genres}", "Heat, crime, drama"),
        ("{title} ({year})", "Heat (1995)"),
        ("{title} by {maker}", "Heat by"),
        ("{{{title}}}", "{Heat}"),
        ("{maker}{none}{empty}", None),
        ("no places", None),
    ],
)
def test_texts(template: str, text: str | None) -> None:
    values = {"title": "Heat", "genres": ["crime", "drama"], "year": 1995, "maker": None, "none": (), "empty": []}

    assert render_text(template, values) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title", "malformed"),
        ("}", "malformed"),
        ("{}", "names"),
        ("{year}", "names .*year.* not one of: title"),
        ("{0}", "names .*0"),
    ],
)
def test_rejects_template(template: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        render_text(template, {"title": "Heat"})
