"""What a schema (its JSON, as in a bundle's manifest) says of fields, and the columns of a field's value.

The modules of this folder say in plain Python what a scoring request means, to be read beside docs/api.md. They know no
code of the product: the native core, which serves, has to come to the same.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = Mapping[str, Any]
Value = str | float | list[str] | None
Tensors = dict[str, NDArray[Any]]
MISSING, UNKNOWN = 0, 1
"""Rows of an embedding table; the words of a vocabulary follow."""
_LIMIT = 10.0
_POSITION = re.compile(r"(^|_)(position|pos|rank|slot|slot_position)$")
_64_BITS = 2**64 - 1
_RAREST = 1e-6


class Schema:
    """The fields of a model."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._fields: list[Field] = document["fields"]
        (history,) = self._of_kinds(None, "sequence")
        self.length: int = history["length"]

    def categories(self, side: str) -> list[Field]:
        """Return the fields of the side's categorical tensor, in the order of its columns."""
        return self._of_kinds(side, "categorical", "bag")

    def numbers(self, side: str) -> list[Field]:
        """Return the fields that open the side's dense tensor."""
        return self._of_kinds(side, "numeric")

    def only(self, side: str, kind: str) -> Field | None:
        """Return the side's `state` or `semantic` field, if it has one."""
        return next(iter(self._of_kinds(side, kind)), None)

    def settable(self, side: str) -> dict[str, Field]:
        """Return the fields that a request may set: neither IDs nor constants."""
        fields = self._of_kinds(side, "categorical", "bag", "numeric")
        return {
            field["name"]: field for field in fields if not field.get("is_id") and field.get("serving_value") is None
        }

    def columns(self, field: Field) -> slice:
        """Return a field's columns among those of its side that are of its sort."""
        start, side = 0, field["side"]
        for other in self.numbers(side) if field["kind"] == "numeric" else self.categories(side):
            if other["name"] == field["name"]:
                return slice(start, start + width(other))
            start += width(other)
        raise KeyError(field["name"])

    def constants(self, slot: int | None = None) -> dict[str, Value]:
        """Return the context's constants, for a place of the page, from 1, or for the one that is served by default."""
        values = {field["name"]: field.get("serving_value") for field in self._of_kinds("context", *_VALUES)}
        constants = {name: value for name, value in values.items() if value is not None}
        if slot is not None and (position := self.position):
            served = constants[position]
            place = slot - 1 + _counts_from(served)
            constants[position] = float(place) if isinstance(served, float) else str(place)
        return constants

    @property
    def position(self) -> str | None:
        """The constant that is the place of an ad on its page."""
        return next(filter(_POSITION.search, self.constants()), None)

    def slot(self, asked: int | None) -> int | None:
        """Return the place of the page, from 1, that is scored."""
        if asked is not None and self.position is not None:
            return asked
        served = self.constants().get(self.position or "", "")
        told = f"{served:g}" if isinstance(served, float) else str(served)
        return 1 - _counts_from(served) + int(told) if told.isascii() and told.isdigit() else None

    def _of_kinds(self, side: str | None, *kinds: str) -> list[Field]:
        return [field for field in self._fields if field["kind"] in kinds and side in (None, field["side"])]


_VALUES = ("categorical", "bag", "numeric")


def _counts_from(served: object) -> int:
    return 0 if served in ("0", 0) else 1


def width(field: Field) -> int:
    """Return the number of columns: a number has its value and whether it is missing."""
    return {"categorical": 1, "numeric": 2}.get(field["kind"]) or int(field["max_values"])


def encode(field: Field, value: Value) -> list[float]:
    """Return the columns of a value, None if missing."""
    if field["kind"] == "numeric":
        return [0.0, 1.0] if value is None else [_standard(field, float(str(value))), 0.0]
    words = value if isinstance(value, list) else [] if value is None else [str(value)]
    found = [index(field, word) for word in words[: width(field)]]
    return [*found, *[MISSING] * (width(field) - len(found))]


def index(field: Field, word: str) -> int:
    """Return a word's row of the field's embedding table."""
    if field["buckets"] is not None:
        return 1 + hash_of(word) % int(field["buckets"])
    return field["vocabulary"].index(word) + 2 if word in field["vocabulary"] else UNKNOWN


def unknown_words(field: Field, value: Value) -> bool:
    """Return whether a word that counts is in no vocabulary that should have it."""
    is_listed = field["kind"] != "numeric" and field["buckets"] is None
    return is_listed and UNKNOWN in encode(field, value)


def hash_of(word: str) -> int:
    """FNV-1a over code points except NUL, finished with MurmurHash3's 64-bit mixer."""
    found = 0xCBF29CE484222325
    for char in word.replace("\0", ""):
        found = ((found ^ ord(char)) * 0x100000001B3) & _64_BITS
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        found = ((found ^ found >> 33) * factor) & _64_BITS
    return found ^ found >> 33


def _standard(field: Field, number: float) -> float:
    if field["log"]:
        number = float(np.sign(number) * np.log1p(abs(number)))
    with np.errstate(over="ignore"):
        standard = (np.float64(number) - field["mean"]) / field["scale"]
    return float(np.clip(standard, -_LIMIT, _LIMIT))


def encode_counts(state: Field, impressions: float, clicks: float, as_of: float, at: float) -> list[float]:
    """Return smoothed log-odds above the prior's, the logarithm of impressions, and that of the age in days, of counts
    complete up to `as_of` (Unix s)."""
    prior, strength = state["prior"], state["strength"]
    rate = (clicks + strength * prior) / (impressions + strength)
    rate = min(max(rate, _RAREST), 1.0 - _RAREST)
    age = min(max(at - as_of, 0.0), state["age_cap_s"])
    odds = float(np.log(rate / (1.0 - rate))) - float(np.log(prior / (1.0 - prior)))
    return [odds, float(np.log1p(impressions)), float(np.log1p(age / 86_400.0))]


def encode_impressions(shown: float, clicked: float, age_s: float) -> list[float]:
    """Return impressions, clicks and age in days of an item of a history: eight impressions count at most."""
    impressions = max(shown, clicked, 1e-6)
    counted = min(impressions, 8.0)
    days = max(age_s, 0.0) / 86_400.0
    return [counted, clicked * (counted / impressions), min(days, 36_500.0) if math.isfinite(days) else 36_500.0]
