"""Raw values in their fields' form, with the words of what is wrong with others; and texts of values."""

import math

import pytest

from msd.contract.encode import Value, canonical, render_text
from msd.contract.errors import SchemaError
from msd.contract.schema import ValueField
from tests.contract.examples import SCHEMA

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
