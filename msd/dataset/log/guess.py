"""Guess of a raw column's feature: kind, options and reason. Distinguishes text from categories."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from msd.contract.schema import MAX_VALUE_CHARS
from msd.dataset.column import time_forms
from msd.dataset.config import clean_name
from msd.dataset.log.notation import LogTable, missing_code
from msd.dataset.log.roles import TITLES

Side = Literal["user", "item", "context"]
Kind = Literal["categorical", "bag", "numeric", "text", "none"]
_FEW_NUMBERS = 32  # whole numbers with at most this many values are categories, such as hours and positions
_MANY_VALUES = 2_000  # more are hashed
_LARGEST_TABLE = 2**18
_LONG_TAIL = 10.0
# Possible separators, and the number of distinct values required: prose has commas too, but seldom bars.
_SEPARATORS = {"|": 0.8, ";": 0.8, ",": 0.5}
_UNIQUE = "nearly every row has another value, so there is nothing to learn from it"
_CODES = re.compile(r"(^|_)(id|code|zip|zipcode|postcode|type|category|class|segment|cluster)$")
_UNIQUE_SHARE = 0.99
_EXACT = 2**53
_PROSE_WORDS = 6
_OF_THE_MOMENT = "free text of the moment, and the student reads texts of items and users only; if it was what was "
_OF_THE_MOMENT += "shown, name its column with --item; if it tells of the item, bring a table with --items"


@dataclass(frozen=True)
class Guess:
    """A column of a log and what it is taken for: a feature, a text, or nothing.

    `values`: canonical for its kind. `options`: keys of [[features]]. `source`: its name in the log. `side`: whose it
    is. `known`: whether it is known before the impression. `name`: its name in the dataset.
    """

    kind: Kind
    reason: str
    values: pl.Series
    options: dict[str, str | int | bool] = field(default_factory=dict)
    source: str = ""
    side: Side = "context"
    known: str = "–"
    name: str = ""

    @property
    def is_feature(self) -> bool:
        """Whether it has an entry of [[features]]."""
        return self.kind not in ("text", "none")


def guess(raw: pl.Series, *, context: bool = False, log: LogTable | None = None) -> Guess:
    """Guess one column of a table: of items, of users, or, in `context`, of requests; `log`: its
    table, by which its numbers are read. Raises
    Doubt if its numbers can be read in two ways."""
    name = clean_name(raw.name)
    present = raw.drop_nulls()
    if not raw.name.strip():
        return Guess("none", "it has no name", raw)
    if present.is_empty():
        return Guess("none", "it is empty", raw)
    if isinstance(raw.dtype, pl.List | pl.Array) and (raw.dtype.inner == pl.String or raw.dtype.inner.is_integer()):
        return _bag(raw.cast(pl.List(pl.String)).list.drop_nulls(), "a list")
    if raw.dtype == pl.Boolean:
        return _category(raw.cast(pl.String), "true or false")
    if raw.dtype.is_nested() or raw.dtype in (pl.Binary, pl.Object):
        return Guess("none", f"a column of type {raw.dtype} cannot be a feature", raw)
    return _scalar(name, raw, context, log or LogTable("", pl.DataFrame()))


def _scalar(name: str, raw: pl.Series, context: bool, log: LogTable) -> Guess:
    if raw.drop_nulls().n_unique() == 1 and not raw.null_count():
        return Guess("none", "it has one value everywhere", raw)
    if raw.dtype.is_temporal() or time_forms(raw):
        return Guess("none", "a time; add a column of its hour or weekday if that matters", raw)
    text = raw.cast(pl.String).str.strip_chars()
    if bool(text.drop_nulls().str.contains(r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?$").all()):
        return Guess("none", "times of the day; if a date is beside them, write both into one column", raw)
    if found := log.numbers(text):
        numbers, reason = found.values, found.reason
        distinct, whole = text.drop_nulls().n_unique(), bool((numbers.drop_nulls() % 1 == 0).all())
        if context and whole and _FEW_NUMBERS < distinct >= _UNIQUE_SHARE * text.count():
            return Guess("none", _UNIQUE, raw)
        return _number(name, text, numbers, reason)
    return _text(name, text, context)


def _number(name: str, text: pl.Series, numbers: pl.Series, reason: str) -> Guess:
    if (code := missing_code(numbers)) is not None:
        reason = f"{reason}; {code:g} in {int((numbers == code).sum()):,} rows is missing"
        text, numbers = text.set(numbers == code, None), numbers.set(numbers == code, None)
    present = numbers.drop_nulls()
    distinct = present.n_unique()
    whole = bool((present == present.floor()).all())
    if whole and bool((present.abs() >= _EXACT).any()):
        return _category(text, "whole numbers too long to be amounts")
    if bool(text.str.contains(r"^0\d+$").any()):
        return _category(text, "digits with leading zeros, which name something")
    if whole and _CODES.search(name):
        return _category(_digits(text, numbers), "whole numbers that name something")
    if whole and distinct <= _FEW_NUMBERS and distinct <= present.len() / 2:
        return _category(_digits(text, numbers), f"whole numbers of {distinct} values only")
    low, middle, high = (float(present.quantile(share) or 0.0) for share in (0.0, 0.5, 0.99))
    if low >= 0 and high > _LONG_TAIL * max(middle, 1e-9):
        tail = f"{reason} with a long tail (half are up to {middle:.6g}, 1 % above {high:.6g})"
        return Guess("numeric", tail, numbers, {"log": True})
    return Guess("numeric", reason, numbers)


def as_codes(guessed: Guess, reason: str) -> Guess:
    """Return a whole number's guess as that of a category: its digits."""
    code = _category(guessed.values.cast(pl.Int64).cast(pl.String), f"whole numbers that name something: {reason}")
    return replace(code, source=guessed.source, side=guessed.side)


def _digits(text: pl.Series, numbers: pl.Series) -> pl.Series:
    """Return whole numbers as written; 3.0 as 3."""
    plain = bool((text.cast(pl.Float64, strict=False) == numbers).all()) and not bool(
        text.str.contains(r"^-?\d+$").all()
    )
    return numbers.cast(pl.Int64).cast(pl.String) if plain else text


def _text(name: str, values: pl.Series, context: bool) -> Guess:
    values = values.set(values == "", None)
    present = values.drop_nulls()
    if present.is_empty():
        return Guess("none", "it is empty", values)
    titled = TITLES.search(name)
    bags = (_cut(values, separator) for separator in (() if titled else _SEPARATORS))
    if bag := next((bag for bag in bags if bag), None):
        return bag
    words = float(present.str.count_matches(r"\S+").cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]
    distinct = present.n_unique()
    long = bool((present.str.len_chars() > MAX_VALUE_CHARS).any())
    varied = distinct > present.len() / 2
    # Repeated prose, such as an item's text on each of its events, is not a category either.
    if not context and (titled or (long and words >= 2) or words >= _PROSE_WORDS or (words >= 3 and varied)):
        return Guess("text", f"text of {words:.1f} words on average", values)
    if words >= 2 and varied or words >= 5 and long:
        return Guess("none", _OF_THE_MOMENT, values)
    if _FEW_NUMBERS < distinct >= _UNIQUE_SHARE * present.len():
        return Guess("none", _UNIQUE, values)
    if long:
        return Guess("none", f"some values are longer than the {MAX_VALUE_CHARS} characters of a category", values)
    return _category(values, "words")


def _cut(values: pl.Series, separator: str) -> Guess | None:
    """Return a bag if enough values contain the separator, and its parts are short and repeated."""
    present = values.drop_nulls()
    cut = present.str.contains(separator, literal=True)
    if int(cut.sum()) < max(2, present.len() * 0.2):
        return None
    lists = values.str.split(separator).list.eval(pl.element().str.strip_chars().filter(pl.element() != ""))
    # Among distinct values, because each may repeat: "Smith, John" splits too, but its parts do not recombine.
    parts = lists.to_frame("parts").with_columns(value=values).unique("value")["parts"].explode().drop_nulls()
    sentence = float(parts.str.count_matches(r"\S+").cast(pl.Float64).mean() or 0.0) > 3  # type: ignore[arg-type]
    repeats = parts.n_unique() <= parts.len() * _SEPARATORS[separator]
    if sentence or not repeats or bool((parts.str.len_chars() > 60).any()):
        return None
    return _bag(lists, f"words that {separator!r} separates, cut there")


def _bag(lists: pl.Series, reason: str) -> Guess:
    sizes = lists.list.len().drop_nulls()
    most = min(64, max(1, int(sizes.quantile(0.99, "higher") or 1)))
    distinct = lists.explode().drop_nulls().n_unique()
    if distinct == 0:
        return Guess("none", "it is empty", lists)
    told, options = _table(distinct)
    told += f", 99 % of rows with {most} at most" if not options else ""
    return Guess("bag", reason + told, lists, {"max_values": most, **options})


def _category(values: pl.Series, reason: str) -> Guess:
    told, options = _table(values.drop_nulls().n_unique())
    return Guess("categorical", reason + told, values, {**options})


def _table(distinct: int) -> tuple[str, dict[str, int]]:
    """Return what is said of a number of values, and options for the table of their embeddings."""
    if distinct <= _MANY_VALUES:
        return f"; {distinct} values", {}
    return f"; {distinct:,} values, so they are hashed", {
        "buckets": min(_LARGEST_TABLE, 1 << (2 * distinct - 1).bit_length())
    }
