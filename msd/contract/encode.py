"""Raw values in their fields' form, and texts from values. The native core makes columns of them (`native.columns`)."""

import math
import string
from collections.abc import Mapping

from msd.contract.errors import SchemaError
from msd.contract.schema import MAX_VALUE_CHARS, Categorical, Numeric, ValueField

Value = str | float | tuple[str, ...] | None
STANDARD_LIMIT = 10.0
"""Of standardised numbers, in either direction."""
SECONDS_PER_DAY = 86_400.0


def canonical(field: ValueField, value: object) -> Value:
    """Return a raw value in the field's form, None if missing; whole numbers are categories too (13 is "13").

    Raises SchemaError if the value has the wrong type, is not finite, or is too long.
    """
    if value is None:
        return None
    if isinstance(field, Numeric):
        return _number(value)
    if isinstance(field, Categorical):
        return _category(value)
    if not isinstance(value, list | tuple):
        raise SchemaError("should be a list of values")
    return tuple(_category(one) for one in value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError("should be a number")
    try:
        number = float(value)
    except OverflowError:
        raise SchemaError("should be a finite number") from None
    if not math.isfinite(number):
        raise SchemaError("should be a finite number")
    return number


def _category(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SchemaError("should be a string or a whole number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise SchemaError("should be a whole number of 64 bits")
    text = str(value)
    if len(text) > MAX_VALUE_CHARS:
        raise SchemaError(f"should have at most {MAX_VALUE_CHARS} characters")
    return text


def render_text(template: str, values: Mapping[str, object]) -> str | None:
    """Fill `{name}` placeholders with values, lists joined by commas, missing ones empty; None if all are missing.

    Raises SchemaError if the template is malformed or names an unknown value.
    """
    try:
        places = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise SchemaError(f"text template {template!r} is malformed: {error}") from None
    parts: list[str] = []
    found = False
    for literal, name in places:
        parts.append(literal)
        if name is None:
            continue
        if name not in values:
            raise SchemaError(f"text template {template!r} names {{{name}}}, which is not one of: {', '.join(values)}")
        value = values[name]
        if value in (None, [], ()):
            continue
        found = True
        parts.append(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    return "".join(parts).strip() if found else None
