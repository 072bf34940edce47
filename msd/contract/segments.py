"""Segments of requests, by name: the user (`known` or `anonymous`), a value of a context field (`device=ios`), the
place of the page that is scored (`slot 2`).

The request log, metrics and corrections of calibration name them alike.
"""

from collections.abc import Sequence

from msd.contract.request import MAX_POSITION, ScoreRequest
from msd.contract.schema import Categorical, FeatureSchema

KNOWN, UNKNOWN_USERS = "known", "anonymous"
_MOST_VALUES = 20
"""Values of a feature that are segments of their own, the most frequent."""
_OTHER = "other"
_SLOT = "slot "


def dividing(schema: FeatureSchema, by: Sequence[str]) -> list[Categorical]:
    """Return the context features of `by` that the schema has, but the position: a place of the page has a segment of
    its own."""
    names = set(by) - {schema.position}
    return [field for field in schema.indexed("context") if isinstance(field, Categorical) and field.name in names]


def segments_of(request: ScoreRequest, schema: FeatureSchema, by: Sequence[str]) -> list[str]:
    """Return the segments of a request: known or anonymous, and its value of each feature that divides requests. Other
    values than the most frequent ones are one segment."""
    found = [UNKNOWN_USERS if request.user_id is None else KNOWN]
    for field in dividing(schema, by):
        value = (request.context or {}).get(field.name, schema.serving_constants.get(field.name))
        word = None if value is None else str(value)
        found.append(f"{field.name}={word if word in field.vocabulary[:_MOST_VALUES] else _OTHER}")
    return found


def every_segment(request: ScoreRequest, schema: FeatureSchema) -> list[str]:
    """Return all segments that a correction can have of a request."""
    names = segments_of(request, schema, [field.name for field in schema.indexed("context")])
    slot = None if schema.position is None else schema.slot_of(request.first_slot)
    return [*filter(field_of, names), *([] if slot is None else [slot_name(slot)])]


def slot_name(slot: int | str) -> str:
    """Return the segment of requests that are scored for a place of the page."""
    return f"{_SLOT}{slot}"


def slot_in(name: str) -> int | None:
    """Return the place of the page that a segment is of; None if it is of none."""
    told = name.removeprefix(_SLOT)
    is_slot = told != name and told.isascii() and told.isdigit() and len(told) < 4 and told == str(int(told))
    return int(told) if is_slot and 1 <= int(told) <= MAX_POSITION else None


def field_of(name: str) -> str | None:
    """Return what divides requests into a segment and others: a field, the user or the slot; None for other names, and
    for all other values of a field."""
    if name in (KNOWN, UNKNOWN_USERS):
        return "user"
    if slot_in(name):
        return "slot"
    field, is_named, value = name.partition("=")
    return f"{field}=" if field and is_named and value != _OTHER else None
