"""Rows of impressions, clicks and conversions, in one log or in files of their own → impressions with their outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from msd.dataset.column import read_moments
from msd.dataset.problem import Problem
from msd.dataset.roles import NAMES, InitError, Role, RoleName, chosen_roles, clean_name, find_id, find_time
from msd.dataset.table import Table

Kind = Literal["impression", "click", "conversion"]
_KINDS: dict[Kind, str] = {
    "impression": "impression impressions imp imps impressed show shown shows display displayed exposure served render",
    "click": "click clicks clicked clk tap",
    "conversion": "conversion conversions convert converted conv install purchase order buy signup transaction lead",
}
_WORDS: dict[str, Kind] = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_MOST_KINDS = 30
_HALF = 0.5


@dataclass(frozen=True)
class Joined:
    """The impressions, the columns that a person or the join named, and the roles of joined outcomes."""

    table: Table
    chosen: Mapping[RoleName, str]
    roles: Mapping[RoleName, Role] = field(default_factory=dict)


def join_log(
    events: Table,
    clicks: Table | None,
    conversions: Table | None,
    chosen: Mapping[RoleName, str],
    form: str | None,
) -> Joined:
    """Join clicks and conversions to their impressions if they are tables of their own, or rows of the events; return
    other events as they are. `form`: of times, if a person gave it."""
    if clicks is not None:
        kinds: dict[Kind, Table] = {"impression": events, "click": clicks}
        if conversions is not None:
            kinds["conversion"] = conversions
    else:
        is_labelled = bool({"label", "clicks", "impressions"} & set(chosen))
        split = None if is_labelled else _split_kinds(events, chosen.get("kind"))
        if split is None:
            return Joined(events, chosen)
        kinds = split
    table, roles = _join_outcomes(kinds, chosen, form)
    named = {role: column for role, column in chosen.items() if role not in ("kind", "request")}
    return Joined(table, named | {role: found.column for role, found in roles.items()}, roles)


def _split_kinds(events: Table, chosen: str | None) -> dict[Kind, Table] | None:
    """Return the rows of each kind; None if no column says whether a row is an impression or a click."""
    for column in [chosen] if chosen else events.frame.columns:
        if column not in events.frame.columns:
            raise InitError(f"--kind {column}: {events.file} has no such column")
        raw = events.frame.get_column(column)
        if raw.dtype != pl.String or (not chosen and raw.n_unique() > _MOST_KINDS):
            continue
        kinds = raw.str.strip_chars().str.to_lowercase().replace_strict(_WORDS, default=None, return_dtype=pl.String)
        if {"impression", "click"} <= set(kinds.unique().to_list()):
            rows = replace(events, frame=events.frame.drop(column))
            return {kind: rows.only(kinds == kind) for kind in _KINDS if (kinds == kind).any()}
    if chosen:
        raise InitError(f"--kind {chosen}: it should hold the words impression and click, and may hold conversion")
    return None


def _join_outcomes(
    tables: Mapping[Kind, Table], chosen: Mapping[RoleName, str], form: str | None
) -> tuple[Table, dict[RoleName, Role]]:
    """Find the impression of each click, and the clicked impression of each conversion: by the request's ID, or else
    the latest of the same user and item before it. Raises InitError if most have none."""
    shown = tables["impression"]
    early: tuple[RoleName, ...] = ("user", "item", "time", "request")
    roles = chosen_roles(shown, {role: chosen[role] for role in early if role in chosen})
    time = find_time(shown, roles, form)
    if time:
        roles["time"] = time
    for role in early[:2]:
        if role not in roles and (id_role := find_id(shown, role, roles)):
            roles[role] = id_role
    rows = _keyed(shown, time).with_row_index("row")
    clicks = _keyed(tables["click"], time)
    clicked, by = _matches(tables["click"].file, rows, clicks, _keys(shown, roles))
    columns = [rows["row"].is_in(clicked["row"].implode()).cast(pl.Int8).alias("clicked")]
    reason = f"{clicked.height:,} of {clicks.height:,} clicks have an impression, by {' and '.join(by)}"
    joined: dict[RoleName, Role] = {"label": Role("clicked", reason)}
    if table := tables.get("conversion"):
        conversions = _keyed(table, time)
        converted, by = _matches(table.file, rows.filter(columns[0] == 1), conversions, [by])
        columns.append(rows["row"].is_in(converted["row"].implode()).cast(pl.Int8).alias("converted"))
        reason = f"{converted.height:,} of {conversions.height:,} conversions have a click, by {' and '.join(by)}"
        joined["conversion"] = Role("converted", reason)
        if "at" in converted.columns:
            first = converted.group_by("row").agg(converted_at=pl.col("at").min())
            columns.append(rows.join(first, on="row", how="left", maintain_order="left")["converted_at"])
            joined["converted_at"] = Role("converted_at", "the time of the first", "s")
    if taken := [values.name for values in columns if values.name in shown.frame.columns]:
        raise InitError(f"{shown.file}: has a column {taken[0]} beside rows of clicks; give --leave-out {taken[0]}")
    return replace(shown, frame=shown.frame.with_columns(columns)), joined


def _keyed(table: Table, time: Role | None) -> pl.DataFrame:
    """Return the columns as text, so that keys of two files compare, with the time in seconds as `at`."""
    flat = [column for column in table.frame if not column.dtype.is_nested()]
    whole = [
        column.cast(pl.Int64, strict=False)
        if column.dtype.is_float() and bool((column.drop_nulls() % 1 == 0).all())
        else column
        for column in flat
    ]
    keys = pl.DataFrame([column.cast(pl.String).alias(f"key {column.name}") for column in whole])
    if time is None or time.column not in table.frame.columns:
        return keys
    problems: list[Problem] = []
    at = read_moments(replace(table, problems=problems), time.column, time.form)
    return keys.with_columns(at=at)


def _keys(shown: Table, roles: Mapping[RoleName, Role]) -> list[list[str]]:
    """Return the columns that may identify an impression, the surest first."""
    pair = [roles[role].column for role in ("user", "item") if role in roles]
    by_name = {clean_name(column): column for column in reversed(shown.frame.columns)}
    requests = [by_name[name] for name in NAMES["request"] if name in by_name]
    if named := roles.get("request"):
        requests, pair = [named.column], []
    item = [roles["item"].column] if "item" in roles else []
    keys = [key for request in requests for key in ([request], [request, *item])]
    return [*keys, pair] if len(pair) == 2 else keys


def _matches(
    file: str, rows: pl.DataFrame, outcomes: pl.DataFrame, keys: Sequence[Sequence[str]]
) -> tuple[pl.DataFrame, Sequence[str]]:
    """Return the outcomes with the `row` of their impression, and the columns by which it was found. Raises InitError
    if fewer than half have one."""
    most = 0
    for columns in keys:
        key = [f"key {column}" for column in columns]
        if not set(key) <= set(outcomes.columns):
            continue
        done, known = outcomes.drop_nulls(key), rows.drop_nulls(key)
        if not known.select(key).is_duplicated().any():
            found = done.join(known.select("row", *key), on=key)
        elif "at" in done.columns and "at" in known.columns:
            known = known.select("row", "at", *key).drop_nulls().sort("at")
            found = done.drop_nulls("at").sort("at").join_asof(known, on="at", by=key, check_sortedness=False)
            found = found.drop_nulls("row")
        else:
            continue
        if found.height >= _HALF * outcomes.height:
            return found, columns
        most = max(most, found.height)
    tried = ", or by ".join(" and ".join(columns) for columns in keys) or "any column"
    raise InitError(
        f"{file}: only {most:,} of {outcomes.height:,} rows of outcomes find their impression by {tried}; name the "
        "column that an impression and its outcomes share with --request COLUMN. If each row is an impression of its "
        "own, and a column says how it ended, give that as --label COLUMN"
    )
