"""Scores that another model gave to a dataset's rows, such as the one in production, from a file."""

from pathlib import Path

import polars as pl

from msd.contract.errors import MsdError
from msd.dataset.column import read_ids, read_moments, read_numeric
from msd.dataset.problem import Problem
from msd.dataset.table import read_table
from msd.metrics import Probabilities

KEY = ("user_id", "item_id", "at")
SCORE = "score"


class ScoresFileError(MsdError):
    """A file of scores is unreadable, or lacks a row."""


def read_scores(path: Path, events: pl.DataFrame) -> Probabilities:
    """Return the file's click probability of each event, by user, item and time; the mean if it has several.

    Raises ScoresFileError if a column or an event's score is missing, or a score is not a probability.
    """
    problems: list[Problem] = []
    table = read_table(path.parent, path.name, problems)
    if table is not None and (missing := [name for name in (*KEY, SCORE) if name not in table.frame.columns]):
        raise ScoresFileError(f"{path}: has no column {', '.join(missing)}; expected {', '.join((*KEY, SCORE))}")
    if table is None or problems:
        raise ScoresFileError(f"{path.parent}/{problems[0]}")
    columns = [
        read_ids(table, "user_id").alias("user_id"),
        read_ids(table, "item_id").alias("item_id"),
        read_moments(table, "at").alias("at"),
        read_numeric(table, SCORE).alias(SCORE),
    ]
    if problems:
        raise ScoresFileError(f"{path.parent}/{problems[0]}")
    known = pl.DataFrame(columns).group_by(KEY).agg(pl.col(SCORE).mean())
    found = events.select(KEY).join(known, on=KEY, how="left", maintain_order="left")
    if lost := found[SCORE].null_count():
        first = found.filter(pl.col(SCORE).is_null()).select(KEY).row(0, named=True)
        raise ScoresFileError(
            f"{path}: has no score for {lost:,} of {len(found):,} test rows, first for {first}; every model is measured"
            " on the same rows"
        )
    if not found[SCORE].is_between(0, 1).all():
        raise ScoresFileError(f"{path}: holds a score outside 0 to 1; give probabilities of a click")
    return found[SCORE].to_numpy()
