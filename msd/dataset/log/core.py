"""A raw log's file, its core columns (user, item, time and outcome) in canonical form, and samples of its rows."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from msd.contract.request import ANONYMOUS_PREFIX
from msd.dataset.aggregate import counts_fit
from msd.dataset.column import read_ids, read_labels, read_moments, read_unique_ids, read_whole_numbers, whole_ids
from msd.dataset.log.notation import LogTable
from msd.dataset.log.roles import Role, RoleName, label_words
from msd.dataset.problem import InitError, Problem, lines_of
from msd.dataset.table import FILE_ENDINGS, Table, read_table
from msd.dataset.text_file import Found

_HEADERLESS = 0.3  # share of a header's cells that are numbers or times
_NO_NAME = re.compile(r"-?\d+([.,]\d+)?|\d{1,4}[-/.]\d\d?[-/.]\d{1,4}.*")
_CUT = r"^\d([.,]\d+)?[eE]\+\d+$"
_FEW_USERS = 100
_SAMPLE_SEED = 0


def read_raw(path: Path, found: Found, decimal: str | None) -> LogTable:
    """Read a person's file or folder, with the notation of its numbers; `decimal`: their mark, if a person named it.
    Raises InitError if it is unreadable or has no header."""
    if not path.is_dir() and not path.name.endswith(FILE_ENDINGS):
        raise InitError(
            f"{path}: should be a folder or end in one of {', '.join(FILE_ENDINGS)}: save it as one of these"
        )
    problems: list[Problem] = []
    table = read_table(path.parent, path.name, problems, found)
    if table is None:
        raise InitError(f"{path.parent / str(problems[0])}")
    numbers = [column for column in table.frame.columns if _NO_NAME.fullmatch(column)]
    if table.textual and len(numbers) > _HEADERLESS * table.frame.width:
        raise InitError(
            f"{path}: the header row is missing: the first row holds {', '.join(table.frame.columns[:5])}, …; add a "
            "row with the columns' names"
        )
    return LogTable.of(table, decimal)


def read_core(events: LogTable, roles: Mapping[RoleName, Role]) -> pl.DataFrame:
    """Return the events' core columns in canonical form. Raises InitError with every invalid value, and Doubt if counts
    can be read in two ways."""
    if "user" in roles:
        users = read_any_ids(events, roles["user"].column)
    else:
        users = _anonymous(events.frame.height)
    columns = {"user_id": users, "item_id": read_any_ids(events, roles["item"].column)}
    if "time" in roles:
        columns["at"] = read_moments(events, roles["time"].column, roles["time"].form)
    else:
        columns["at"] = pl.Series(range(events.frame.height), dtype=pl.Int64)
    if "label" in roles:
        columns["label"] = _labels(events, roles["label"].column, "click")
    if "conversion" in roles:
        columns["conversion"] = _labels(events, roles["conversion"].column, "conversion")
    if "converted_at" in roles:
        columns["converted_at"] = read_moments(events, roles["converted_at"].column, optional=True)
    for role in ("impressions", "clicks"):
        if role in roles:
            columns[role] = read_whole_numbers(_plain(events, roles[role].column), roles[role].column)
    if "impressions" in columns:
        clicks = roles["clicks"].column if "clicks" in roles else None
        counts_fit(events, clicks, columns["impressions"], columns.get("clicks"))
    refuse(events, roles)
    return pl.DataFrame(columns)


def _anonymous(rows: int) -> pl.Series:
    """Return an anonymous user for each row, as `msd join` writes them."""
    return ANONYMOUS_PREFIX + pl.int_range(rows, eager=True).cast(pl.String)


def read_any_ids(table: Table, column: str, unique: bool = False) -> pl.Series:
    """Return IDs, also from whole numbers that missing values turned into floats."""
    raw = table.frame.get_column(column)
    if raw.dtype == pl.String:
        cut = "is a long number that a spreadsheet has cut; export IDs as text"
        table.flag(column, raw.str.contains(_CUT), cut)
    table = replace(table, frame=table.frame.with_columns(whole_ids(raw)))
    return read_unique_ids(table, column) if unique else read_ids(table, column)


def _plain(table: LogTable, column: str) -> Table:
    """Return the table with a column of text with thousands as numbers, if all are."""
    raw = table.frame.get_column(column)
    marked = raw.dtype == pl.String and bool(raw.str.contains(r"\d[.,]\d").any())
    found = table.numbers(raw) if marked else None
    return replace(table, frame=table.frame.with_columns(found.values.alias(column))) if found else table


def _labels(table: Table, column: str, what: str) -> pl.Series:
    raw = table.frame.get_column(column)
    if raw.dtype.is_nested() or raw.dtype.is_temporal():
        return read_labels(table, column, what)
    table.flag_missing(column, f"; write 0 if that means no {what}, or leave the row out")
    words = raw.cast(pl.String).str.strip_chars().str.to_lowercase()
    labels = words.replace_strict(label_words(set(words.drop_nulls())), default=None, return_dtype=pl.Int8)
    wrong = raw.is_not_null() & labels.is_null()
    table.flag(column, wrong, f"should be 0 (no {what}) or 1 ({what}), or no or yes, false or true")
    return labels


def refuse(table: Table, roles: Mapping[RoleName, Role] | None = None) -> None:
    """Raise InitError if the table has problems, with each faulty column's assumed meaning."""
    if not table.problems:
        return
    wrong = {problem.column for problem in table.problems}
    taken = [(name, role) for name, role in (roles or {}).items() if role.column in wrong]
    hints = [
        f"{one.column} was taken as the {name} ({one.reason}); to name another column, use --{name} COLUMN"
        for name, one in taken
    ]
    raise InitError("\n".join(["fix these problems first:", *lines_of(table.problems), *hints]))


def draw_sample(core: pl.DataFrame, most: int) -> tuple[pl.Series, str] | None:
    """Return which of the core's rows are kept, and a note about it; None if there are at most `most` rows.

    `core`: the core columns as `read_core` returns them. Each row has the same chance, clicked or not, so click rates
    do not change. The same log gives the same sample.
    """
    if core.height <= most:
        return None
    users, random = core["user_id"], np.random.default_rng(_SAMPLE_SEED)
    counts = users.value_counts().sort("user_id")
    if counts.height < _FEW_USERS:
        kept = pl.Series(np.isin(np.arange(users.len()), random.choice(users.len(), most, replace=False)))
    else:  # whole users, so that histories stay complete
        drawn = counts[random.permutation(counts.height)]
        kept = users.is_in(drawn.filter(pl.col("count").cum_sum() <= most)["user_id"].implode())
    return kept, f"a sample of about {most:,} of {core.height:,} rows"
