"""Values of features as people know them, from rows and from the schema: the reverse of encoding, where there is one.

What was hashed, or was in no vocabulary, cannot be told any more.
"""

import math
from typing import Any

from msd.contract.rows import Records
from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, Side, ValueField

_MOST_VALUES = 1_000
_FIRST_VALUE = 2


def fields_of(schema: FeatureSchema, side: Side) -> list[dict[str, Any]]:
    """What a request may say on this side, for a form: names, kinds, and values where they are known."""
    return [_field(name, field) for name, field in schema.settable[side].items()]


def values_in(schema: FeatureSchema, side: Side, record: Records) -> dict[str, Any]:
    """The values of those fields in a row [1], by name; None where one is missing or cannot be told."""
    return {name: _value(schema, field, record) for name, field in schema.settable[side].items()}


def _field(name: str, field: ValueField) -> dict[str, Any]:
    if isinstance(field, Numeric):
        return {"name": name, "kind": field.kind}
    found: dict[str, Any] = {"name": name, "kind": field.kind, "values": list(field.vocabulary[:_MOST_VALUES])}
    return found | ({"most": field.max_values} if isinstance(field, Bag) else {})


def _value(schema: FeatureSchema, field: ValueField, record: Records) -> Any:  # noqa: ANN401 - of any field's type
    columns = schema.columns[field.name]
    if isinstance(field, Numeric):
        standard, is_missing = record["numeric"][0, columns].tolist()
        return None if is_missing else _number(field, standard)
    values = [_known(field, index) for index in record["categorical"][0, columns].tolist()]
    told = [value for value in values if value is not None]
    return told if isinstance(field, Bag) else next(iter(told), None)


def _known(field: Categorical | Bag, index: int) -> str | None:
    if field.buckets is not None or index < _FIRST_VALUE:
        return None
    return field.vocabulary[index - _FIRST_VALUE]


def _number(field: Numeric, standard: float) -> float:
    number = standard * field.scale + field.mean
    if field.log:
        number = math.copysign(math.expm1(min(abs(number), 700.0)), number)
    return float(f"{number:.5g}")
