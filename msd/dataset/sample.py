"""A sample of a log's rows: whole users; of few users, rows."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

_FEW_USERS = 100
_SEED = 0


def draw(core: pl.DataFrame, most: int) -> tuple[pl.Series, str] | None:
    """Which of the core's rows are kept, and a word on it; None where there are no more than `most`.

    core: the events' own columns as `read_core` gives them. Each row has the same chance, clicked or not, so that
    click rates stay what they are. The same log gives the same sample.
    """
    if core.height <= most:
        return None
    kept = _whole_users(core["user_id"], most, np.random.default_rng(_SEED))
    return kept, f"a sample of about {most:,} of {core.height:,} rows"


def _whole_users(users: pl.Series, most: int, random: np.random.Generator) -> pl.Series:
    """Whole users, so that histories stay whole; of few users, rows."""
    counts = users.value_counts().sort("user_id")
    if counts.height < _FEW_USERS:
        rows: NDArray[np.bool_] = np.zeros(users.len(), bool)
        rows[random.choice(users.len(), most, replace=False)] = True
        return pl.Series(rows)
    drawn = counts[random.permutation(counts.height)]
    return users.is_in(drawn.filter(pl.col("count").cum_sum() <= most)["user_id"].implode())
