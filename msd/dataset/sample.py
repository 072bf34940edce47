"""A sample of a log's impressions: of counts, so many of each row by chance; of single impressions, whole users."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

_FEW_USERS = 100
_SEED = 0


def draw(core: pl.DataFrame, most: int) -> tuple[pl.DataFrame, pl.Series, str] | None:
    """The rows that are kept, which of the core's they are, and a word on it; None where there are no more than `most`.

    core: the events' own columns as `read_core` gives them. Each impression has the same chance, clicked or not, so
    that click rates stay what they are. The same log gives the same sample.
    """
    total = int(core["impressions"].sum()) if "impressions" in core.columns else core.height
    if total <= most:
        return None
    random = np.random.default_rng(_SEED)
    if "impressions" in core.columns:
        core, kept = _thinned(core, most / total, random)
    else:
        kept = _whole_users(core["user_id"], most, random)
    return core.filter(kept), kept, f"a sample of about {most:,} of {total:,} impressions"


def _thinned(core: pl.DataFrame, share: float, random: np.random.Generator) -> tuple[pl.DataFrame, pl.Series]:
    shown = core["impressions"].to_numpy()
    if "clicks" not in core.columns:
        core = core.with_columns(impressions=pl.Series(random.binomial(shown, share)))
    else:
        clicked = core["clicks"].to_numpy()
        clicks, rest = random.binomial(clicked, share), random.binomial(shown - clicked, share)
        core = core.with_columns(impressions=pl.Series(clicks + rest), clicks=pl.Series(clicks))
    return core, core["impressions"] > 0


def _whole_users(users: pl.Series, most: int, random: np.random.Generator) -> pl.Series:
    """Whole users, so that histories stay whole; of few users, rows."""
    counts = users.value_counts().sort("user_id")
    if counts.height < _FEW_USERS:
        rows: NDArray[np.bool_] = np.zeros(users.len(), bool)
        rows[random.choice(users.len(), most, replace=False)] = True
        return pl.Series(rows)
    drawn = counts[random.permutation(counts.height)]
    return users.is_in(drawn.filter(pl.col("count").cum_sum() <= most)["user_id"].implode())
