"""Rows of impressions, clicks and conversions, in one log or in files of their own → impressions with their outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import polars as pl

from msd.dataset.column import read_moments, whole_ids
from msd.dataset.config import clean_name
from msd.dataset.log.notation import LogTable
from msd.dataset.log.roles import NAMES, Role, RoleName, chosen_roles, find_id, find_time
from msd.dataset.problem import InitError
from msd.dataset.table import Table

Kind = Literal["impression", "click", "conversion"]
_KINDS: dict[Kind, str] = {
    "impression": "impression impressions imp imps impressed show shown shows display displayed exposure served view "
    "anzeige einblendung",
    "click": "click clicks clicked clk tap klick",
    "conversion": "conversion conversions convert converted conv install purchase order buy signup transaction lead",
}
_WORDS: dict[str, Kind] = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_MOST_KINDS = 30
_HALF = 0.5


class _Key(NamedTuple):
    """Columns that an impression and its outcomes share; if they are not exact, the latest impression before counts."""

    columns: Sequence[str]
    exact: bool

    def __str__(self) -> str:
        return " and ".join(self.columns)


def join_log(
    tables: Mapping[str, LogTable], chosen: Mapping[RoleName, str], form: str | None
) -> tuple[LogTable, dict[RoleName, Role]]:
    """Join clicks and conversions to their impressions if they are tables of their own, or rows of the first; return
    the impressions, and the roles of their outcomes. Other events stay as they are. `form`: of times, if a person gave
    it."""
    events, kinds = tables["impression"], tables
    if len(tables) == 1:
        if {"label", "clicks", "impressions"} & set(chosen) or not (split := _split_kinds(events, chosen.get("kind"))):
            return events, {}
        kinds = split
    # Rows of clicks alone do not show whether their impressions are rows, too: an ID has to.
    table, roles = _join_outcomes(kinds, chosen, form, by_pair=len(tables) > 1 or "kind" in chosen)
    if len(tables) == 1 and (others := events.frame.height - sum(rows.frame.height for rows in kinds.values())):
        label = roles["label"]
        roles["label"] = replace(label, reason=f"{label.reason}; {others:,} rows of other kinds are left out")
    return table, roles


def _split_kinds(events: LogTable, chosen: str | None) -> dict[str, LogTable] | None:
    """Return the rows of each kind; None if no column says whether a row is an impression or a click."""
    for column in [chosen] if chosen else events.frame.columns:
        if column not in events.frame.columns:
            raise InitError(f"--kind {column}: {events.file} has no such column")
        raw = events.frame.get_column(column)
        if not chosen and clean_name(column) in NAMES["label"]:
            continue
        if raw.dtype not in (pl.String, pl.Categorical, pl.Enum) or (not chosen and raw.n_unique() > _MOST_KINDS):
            continue
        kinds = (
            raw.cast(pl.String)
            .str.strip_chars()
            .str.to_lowercase()
            .replace_strict(_WORDS, default=None, return_dtype=pl.String)
        )
        if {"impression", "click"} <= set(kinds.unique().to_list()):
            rows = replace(events, frame=events.frame.drop(column))
            return {kind: rows.only(kinds == kind) for kind in _KINDS if (kinds == kind).any()}
    if chosen:
        raise InitError(f"--kind {chosen}: it should hold the words impression and click, and may hold conversion")
    return None


def _join_outcomes(
    tables: Mapping[str, LogTable], chosen: Mapping[RoleName, str], form: str | None, *, by_pair: bool
) -> tuple[LogTable, dict[RoleName, Role]]:
    """Find the impression of each click, and the clicked impression of each conversion: by the request's ID, or, if
    `by_pair`, the latest of the same user and item before it. Raises InitError if most have none."""
    shown = tables["impression"]
    early: tuple[RoleName, ...] = ("user", "item", "time", "request")
    roles = chosen_roles(shown, {role: chosen[role] for role in early if role in chosen})
    for role in early[:2]:
        if role not in roles and (id_role := find_id(shown, role, roles)):
            roles[role] = id_role
    time = find_time(shown, roles, form)
    keys = _keys(shown, roles, by_pair)
    rows = _keyed(shown, keys, time).with_row_index("row")
    clicks = _keyed(tables["click"], keys, time)
    clicked, key = _matches(tables["click"].file, rows, clicks, keys)
    columns = [rows["row"].is_in(clicked["row"].implode()).cast(pl.Int8).alias("clicked")]
    reason = f"{clicked.height:,} of {clicks.height:,} clicks have an impression, by {key}"
    joined: dict[RoleName, Role] = {"label": Role("clicked", reason)}
    if table := tables.get("conversion"):
        conversions = _keyed(table, [key], time)
        converted, _ = _matches(table.file, rows.filter(columns[0] == 1), conversions, [key])
        columns.append(rows["row"].is_in(converted["row"].implode()).cast(pl.Int8).alias("converted"))
        reason = f"{converted.height:,} of {conversions.height:,} conversions have a click, by {key}"
        joined["conversion"] = Role("converted", reason)
        if "at" in converted.columns:
            first = converted.group_by("row").agg(first=pl.col("at").min())
            known = rows.join(first.drop_nulls(), on="row", how="left", maintain_order="left")
            # Clocks differ.
            later = pl.when(pl.col("first").is_not_null()).then(pl.max_horizontal("first", "at"))
            columns.append(known.select(converted_at=later).to_series())
            joined["converted_at"] = Role("converted_at", "the time of the first", "s")
    if taken := [values.name for values in columns if values.name in shown.frame.columns]:
        raise InitError(f"{shown.file}: has a column {taken[0]} beside rows of clicks; give --leave-out {taken[0]}")
    return replace(shown, frame=shown.frame.with_columns(columns)), joined


def _keyed(table: Table, keys: Sequence[_Key], time: Role | None) -> pl.DataFrame:
    """Return the columns of keys as text, so that those of two files compare, with the time in seconds as `at`."""
    flat = {column.name: column for column in table.frame if not column.dtype.is_nested()}
    found = []
    for name in dict.fromkeys(name for key in keys for name in key.columns if name in flat):
        found.append(whole_ids(flat[name]).cast(pl.String).alias(f"key {name}"))
    if time is not None and time.column in flat:
        found.append(read_moments(replace(table, problems=[]), time.column, time.form).alias("at"))
    return pl.DataFrame(found) if found else pl.DataFrame({"": range(table.frame.height)})


def _keys(shown: Table, roles: Mapping[RoleName, Role], by_pair: bool) -> list[_Key]:
    """Return the keys that may identify an impression, the surest first."""
    pair = [roles[role].column for role in ("user", "item") if role in roles]
    by_name = {clean_name(column): column for column in reversed(shown.frame.columns) if column not in pair}
    requests = [by_name[name] for name in NAMES["request"] if name in by_name]
    if named := roles.get("request"):
        requests, by_pair = [named.column], False
    item = [roles["item"].column] if "item" in roles else []
    keys = [_Key(columns, True) for request in requests for columns in ([request], [request, *item])]
    return [*keys, _Key(pair, False)] if by_pair and len(pair) == 2 else keys


def _matches(file: str, rows: pl.DataFrame, outcomes: pl.DataFrame, keys: Sequence[_Key]) -> tuple[pl.DataFrame, _Key]:
    """Return the outcomes with the `row` of their impression, and the key by which it was found. Raises InitError if
    fewer than half have one."""
    most = 0
    for key in keys:
        names = [f"key {column}" for column in key.columns]
        if not set(names) <= set(outcomes.columns):
            continue
        done, known = outcomes.drop_nulls(names), rows.drop_nulls(names)
        if key.exact and not known.select(names).is_duplicated().any():
            found = done.join(known.select("row", *names), on=names)
        elif not key.exact and "at" in done.columns and "at" in known.columns:
            known = known.select("row", "at", *names).drop_nulls().sort("at")
            found = done.drop_nulls("at").sort("at").join_asof(known, on="at", by=names, check_sortedness=False)
            found = found.drop_nulls("row")
        else:
            continue
        if found.height >= _HALF * outcomes.height:
            return found, key
        most = max(most, found.height)
    raise InitError(
        f"{file}: {most:,} of {outcomes.height:,} rows of outcomes find their impression by "
        f"{', or by '.join(map(str, keys)) or 'an ID'}; name the column that an impression and its outcomes share with "
        "--request COLUMN, or the column of impressions and clicks with --kind COLUMN to find the latest impression of "
        "the same user and item. If each row is an impression of its own, and a column says how it ended, give that as "
        "--label COLUMN"
    )
