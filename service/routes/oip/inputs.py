"""Inputs of the protocol, and the scoring request that they make.

An input is named by its place in the JSON of /v1/score, so that merging and checking happen only there. Raises
InvalidRequest, which names the input at fault.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from msd.contract.request import InvalidRequest, TooManyCandidates
from msd.contract.schema import MAX_HISTORY, Bag, FeatureSchema, Numeric, ValueField
from service.routes.oip.tensors import FLOATS, INTEGERS, InferInput, Parts, values_of

WHOLE = "request"
"""The input that contains a whole scoring request as JSON."""
USER_ID, CANDIDATES = "user_id", "candidates.id"
_CANDIDATES_SIDE = "candidates."
_FEATURES = {"context.": "context", "user.features.": "user"}
_TEXTS, _CATEGORIES, _NUMBERS, _WHOLE_NUMBERS = ("BYTES",), ("BYTES", *INTEGERS), (*FLOATS, *INTEGERS), INTEGERS
_SHOWN = 80


class Input(NamedTuple):
    """An input: its datatypes (the metadata name the first), its number of values, and their place."""

    name: str
    datatypes: tuple[str, ...]
    is_list: bool = False
    is_json: bool = False
    is_optional: bool = True


_FIXED = {
    entry.name: entry
    for entry in (
        Input(USER_ID, _TEXTS, is_optional=False),
        Input(CANDIDATES, _TEXTS, is_list=True, is_optional=False),
        Input("candidates.bid", _NUMBERS, is_list=True),
        Input("at", ("FP64", "FP32", *INTEGERS)),
        Input("user.history", _TEXTS, is_list=True),
        Input("items", _TEXTS, is_json=True),
        Input("top_k", _WHOLE_NUMBERS),
    )
}


def inputs_of(schema: FeatureSchema) -> Iterator[Input]:
    """Return all inputs of a model with this schema except `request`, which may replace all of them."""
    yield from _FIXED.values()
    for prefix, side in _FEATURES.items():
        for name, field in schema.settable[side].items():  # type: ignore[index]
            yield _of_field(f"{prefix}{name}", field)


def scoring_body(
    parts: Parts, schema_of: Callable[[str], FeatureSchema], max_candidates: int, check_json: Callable[[bytes], None]
) -> bytes:
    """Return the body of /v1/score for the tensors. `check_json` may refuse a text before it is parsed."""
    if WHOLE in parts.inputs:
        return _whole(parts, check_json)
    for needed in (USER_ID, CANDIDATES):
        if needed not in parts.inputs:
            raise InvalidRequest("missing input; send it, or `request` alone", needed)
    _check(parts.inputs[USER_ID], _FIXED[USER_ID], max_candidates)
    user_id: str = values_of(parts, USER_ID)[0]
    schema = schema_of(user_id)
    document: dict[str, Any] = {}
    for name, given in parts.inputs.items():
        found = _find(name, schema)
        _check(given, found, max_candidates)
        values = values_of(parts, name)
        *above, last = name.split(".")
        place = document
        for key in above:
            place = place.setdefault(key, {})
        place[last] = values if found.is_list else values[0]
        if found.is_json:
            check_json(values[0].encode())
            try:
                orjson.loads(values[0])
            except orjson.JSONDecodeError as error:
                raise InvalidRequest(f"is not JSON: {error}", name) from None
            # Embedded unchanged; its content is checked later.
            place[last] = orjson.Fragment(values[0])
    return orjson.dumps(document)


def user_of(body: bytes) -> str | None:
    """Return the requested user, as far as this is known before the request is checked."""
    found = _said(body, USER_ID)
    return found if isinstance(found, str) else None


def _said(body: bytes, key: str) -> object:
    """Return a scoring request's value of a key, if it is one; everything else is checked later."""
    try:
        return orjson.loads(body)[key]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def _whole(parts: Parts, check_json: Callable[[bytes], None]) -> bytes:
    if others := [name for name in parts.inputs if name != WHOLE]:
        raise InvalidRequest(f"replaces all other inputs, but {others[0][:_SHOWN]!r} is given too", WHOLE)
    _check(parts.inputs[WHOLE], Input(WHOLE, _TEXTS), 1)
    text: str = values_of(parts, WHOLE)[0]
    body = text.encode()
    check_json(body)
    for part in ("explain", "page"):
        if _said(body, part):
            raise InvalidRequest("is not available as tensors; use /v1/score", f"{WHOLE}.{part}")
    return body


def _of_field(name: str, field: ValueField) -> Input:
    return Input(name, _NUMBERS if isinstance(field, Numeric) else _CATEGORIES, is_list=isinstance(field, Bag))


def _find(name: str, schema: FeatureSchema) -> Input:
    if name in _FIXED:
        return _FIXED[name]
    for prefix, side in _FEATURES.items():
        field = schema.settable[side].get(name.removeprefix(prefix))  # type: ignore[index]
        if name.startswith(prefix) and field is not None:
            return _of_field(name, field)
    known = ", ".join(entry.name for entry in inputs_of(schema))
    raise InvalidRequest(f"unknown input; expected {known}, or {WHOLE} alone", name[:_SHOWN])


def _check(given: InferInput, found: Input, max_candidates: int) -> None:
    name, shape = found.name, given.shape
    if given.datatype not in found.datatypes:
        raise InvalidRequest(
            f"the datatype is {given.datatype[:_SHOWN]!r}; it has to be {' or '.join(found.datatypes)}", name
        )
    if len(shape) != 1 or (not found.is_list and shape[0] != 1):
        raise InvalidRequest(f"the shape is {shape}; it has to be {'[N]' if found.is_list else '[1]'}", name)
    if name.startswith(_CANDIDATES_SIDE):
        if shape[0] > max_candidates:
            raise TooManyCandidates(f"{shape[0]} candidates; one request may have {max_candidates}: split it", name)
    elif shape[0] > MAX_HISTORY:
        raise InvalidRequest(f"has {shape[0]} values; the limit is {MAX_HISTORY}", name)
