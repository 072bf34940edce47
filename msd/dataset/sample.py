"""Sample of a log's rows: whole users, or single rows if there are few users."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

_FEW_USERS = 100
_SEED = 0


def draw(core: pl.DataFrame, most: int) -> tuple[pl.Series, str] | None:
    """Return which of the core's rows are kept, and a note about it; None if there are at most `most` rows.

    `core`: the core columns as `read_core` returns them. Each row has the same chance, clicked or not, so click rates
    do not change. The same log gives the same sample.
    """
    if core.height <= most:
        return None
    kept = _whole_users(core["user_id"], most, np.random.default_rng(_SEED))
    return kept, f"a sample of about {most:,} of {core.height:,} rows"


def _whole_users(users: pl.Series, most: int, random: np.random.Generator) -> pl.Series:
    """Draw whole users, so that histories stay complete; rows if there are few users."""
    counts = users.value_counts().sort("user_id")
    if counts.height < _FEW_USERS:
        rows: NDArray[np.bool_] = np.zeros(users.len(), bool)
        rows[random.choice(users.len(), most, replace=False)] = True
        return pl.Series(rows)
    drawn = counts[random.permutation(counts.height)]
    return users.is_in(drawn.filter(pl.col("count").cum_sum() <= most)["user_id"].implode())
