"""Which columns of a request are an ad's position: known only afterwards, so that a value stands for it online."""

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from msd.dataset.config import clean_name
from msd.dataset.log.guess import Guess
from msd.dataset.log.roles import NAMES
from msd.dataset.problem import Doubt, InitError

NONE = "none"
"""The answer that no column is a position."""
_NAMES = re.compile(r"(^|_)(position|pos)$|^((ad|item|result|list|display)_)?rank$")
_PLACES = re.compile(r"(^|_)(slot|tag|place|placement|zone|unit|block)(_?(id|number|no|position))?$")
_LARGEST, _FEWEST, _NEARLY_ALL = 200, 20, 0.95


def find_positions(context: Sequence[pl.Series], core: pl.DataFrame, given: str | None) -> dict[str, str]:
    """Return positions, each with the reason: the `given` one, or those by name, or else those that count from
    1, or 0, within each request. Raises Doubt if such a column is called as a place is."""
    if given == NONE:
        return {}
    if given is not None:
        if given not in [raw.name for raw in context]:
            names = ", ".join(raw.name for raw in context)
            raise InitError(f"--position {given}: the requests lack this column; they have {names}")
        return {given: "given by --position"}
    if named := [raw.name for raw in context if _NAMES.search(clean_name(raw.name))]:
        return dict.fromkeys(named, "its name says so")
    counting = [raw.name for raw in context if _counts(raw, _requests(context, core))]
    for name in counting:
        if _PLACES.search(clean_name(name)):
            raise Doubt(
                f"{name}: counts within each request, and may be the ad's position, which is known only "
                "afterwards, or a place that the request names",
                "position",
                {name: "it is the position", NONE: "it is a place"},
            )
    return dict.fromkeys(counting, "it counts within each request")


def as_position(guessed: Guess, reason: str) -> Guess:
    """Return a position's guess with the value that stands for it online: the first, or the usual one."""
    if guessed.kind not in ("categorical", "numeric"):
        return guessed
    values = guessed.values.drop_nulls()
    first: str | int = int(values.min() != 0)
    if guessed.kind == "categorical":
        known = [one for one in ("0", "1") if (values == one).any()]
        first = known[0] if known else str(values.mode().sort()[0])
        first = int(first) if first == "1" else first
    told = f"{guessed.reason}; {reason}: a position is known only afterwards, so {first} stands for it online"
    return replace(guessed, reason=told, options=guessed.options | {"serving_value": first})


def _requests(context: Sequence[pl.Series], core: pl.DataFrame) -> pl.Series:
    """Return the request of each event [n]: by its ID if that repeats, else by user and time."""
    for raw in context:
        if clean_name(raw.name) in NAMES["request"] and raw.n_unique() < raw.len():
            return raw
    return core.select(pl.struct("user_id", "at")).to_series()


def _counts(raw: pl.Series, requests: pl.Series) -> bool:
    """Return whether the values are 1, 2, …, or 0, 1, …, in nearly all requests of several events."""
    if raw.dtype.is_nested() or raw.dtype.is_temporal():
        return False
    numbers = raw.cast(pl.String).cast(pl.Int64, strict=False)
    if numbers.null_count() or numbers.min() not in (0, 1) or numbers.max() > _LARGEST:  # type: ignore[operator]
        return False
    value = pl.col("value")
    groups = pl.DataFrame({"request": requests, "value": numbers - numbers.min() + 1}).group_by("request")
    told = groups.agg(rows=pl.len(), fits=(value.n_unique() == pl.len()) & (value.max() == pl.len()))
    told = told.filter(pl.col("rows") > 1)
    return told.height >= _FEWEST and int(told["fits"].sum()) >= _NEARLY_ALL * told.height
