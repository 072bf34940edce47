"""What a column is taken for, by its name and what it holds."""

from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.config import clean_name
from msd.dataset.log.guess import guess
from msd.dataset.log.position import as_position

N = 60


def column(name: str, values: list[object]) -> pl.Series:
    return pl.Series(name, (values * N)[:N], strict=False)


@pytest.mark.parametrize(
    ("raw", "kind", "options"),
    [
        (column("device", ["ios", "android", None]), "categorical", {}),
        (column("hour", list(range(24))), "categorical", {}),
        (column("hour", [str(hour) for hour in range(24)]), "categorical", {}),
        (column("premium", [True, False]), "categorical", {}),
        (column("zip", ["02134", "10115"]), "categorical", {}),
        (pl.Series("category_id", range(5000)), "categorical", {"buckets": 16384}),
        (pl.Series("query", [f"word{number}" for number in range(3000)]), "none", {}),
        (column("tags", ["a|b", "b", "a|c", "c|a"]), "bag", {"max_values": 2}),
        (column("tags", ["a; b", "b", "a;c"]), "bag", {"max_values": 2}),
        (column("tags", ["red, small", "blue, small", "red, large", "blue, large"]), "bag", {"max_values": 2}),
        (pl.Series("tags", [["a", "b"], ["a"]] * 30), "bag", {"max_values": 2}),
        (pl.Series("tags", [[1, 2], [1]] * 30), "bag", {"max_values": 2}),
        (pl.Series("price", [1.5 + number / 7 for number in range(N)]), "numeric", {}),
        (pl.Series("price", [1.5] * 55 + [900.5] * 5), "numeric", {"log": True}),
        (pl.Series("age", list(range(18, 78))), "numeric", {}),
        (pl.Series("title", [f"{number}x" for number in range(N)]), "text", {}),
        (pl.Series("blurb", [f"A fine thing, number {number}" for number in range(N)]), "text", {}),
        (pl.Series("url_part", [f"x{number}" for number in range(N)]), "none", {}),
        (column("same", ["a"]), "none", {}),
        (column("empty", [None]), "none", {}),
        (column("since", [date(2024, 5, 1), date(2024, 5, 2)]), "none", {}),
        (column("since", [datetime(2024, 5, 1), datetime(2024, 5, 2)]), "none", {}),
        (column("since", ["2024-05-01T10:00:00Z", "2024-05-02"]), "none", {}),
        (column("clock", ["08:16:46", "9:20", None]), "none", {}),
        (pl.Series("box", [{"a": 1}, {"a": 2}] * 30), "none", {}),
        (pl.Series("bytes", [b"a", b"b"] * 30), "none", {}),
        (pl.Series("lists", [[1.5], [2.5]] * 30), "none", {}),
        (pl.Series("lists", [[], []] * 30, dtype=pl.List(pl.String)), "none", {}),
        (column("code", ["x" * 300, "y"]), "none", {}),
    ],
)
def test_guesses_the_kind_of_a_column(raw: pl.Series, kind: str, options: dict[str, object]) -> None:
    found = guess(raw)
    assert (found.kind, found.options) == (kind, options), found.reason
    assert found.reason


@pytest.mark.parametrize(("values", "first"), [([1, 2, 3], 1), ([0, 1, 2], "0"), (["top", "top", "side"], "top")])
def test_position_is_served_as_the_first(values: list[object], first: object) -> None:
    guessed = guess(column("position", values), context=True)
    assert as_position(guessed, "given by --position").options == {"serving_value": first}


@pytest.mark.parametrize(
    ("name", "values", "kind", "options"),
    [
        ("search", [f"where to buy a thing {number}" for number in range(N)], "none", {}),
        ("site", [f"s{number % 3000}" for number in range(9000)], "categorical", {"buckets": 8192}),
        ("row", list(range(N)), "none", {}),
        ("event", [f"e{number}" for number in range(N)], "none", {}),
        ("bid", [number + 0.5 for number in range(N)], "numeric", {}),
        ("author", [f"Smith{number}, John{number}" for number in range(N)] * 2, "categorical", {}),
        (" ", [1, 2], "none", {}),
    ],
)
def test_guesses_the_kind_of_a_context_column(
    name: str, values: list[object], kind: str, options: dict[str, object]
) -> None:
    found = guess(pl.Series(name, values), context=True)
    assert (found.kind, found.options) == (kind, options), found.reason


def test_codes_keep_leading_zeros() -> None:
    assert guess(column("zip", ["02134", "10115"])).values[0] == "02134"
    assert guess(column("floor_id", [1.0, 2.0, None])).values[:3].to_list() == ["1", "2", None]


cells = st.one_of(
    st.none(), st.text(max_size=8), st.sampled_from(["1", "2.5", "a|b", "nan", "inf", "2024-05-01", "-3"])
)


@given(values=st.lists(cells, min_size=1, max_size=40), name=st.text(max_size=10), context=st.booleans())
@settings(max_examples=150)
def test_every_column_gets_a_guess_of_its_length(values: list[str | None], name: str, context: bool) -> None:
    found = guess(pl.Series(name, values, dtype=pl.String), context=context)
    assert found.values.len() == len(values)
    kinds = {"categorical": pl.String, "text": pl.String, "numeric": pl.Float64, "bag": pl.List(pl.String)}
    if found.kind != "none":
        assert found.values.dtype == kinds[found.kind]


@pytest.mark.parametrize(
    ("column", "name"),
    [("Gerät", "gerat"), ("Größe (cm)", "grosse_cm"), ("userId", "user_id"), ("7 jours", "c_7_jours"), ("電影", "c")],
)
def test_column_becomes_a_readable_feature_name(column: str, name: str) -> None:
    assert clean_name(column) == name
