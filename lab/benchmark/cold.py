"""Unseen items: a dataset whose test rows are all rows of items drawn by the seed.

The network trains on the rows of the other items, as on any dataset whose events name their part.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from msd.dataset.config import SplitConfig
from msd.dataset.load import Dataset
from msd.dataset.order import id_order
from msd.step import fingerprint_of

HELD = 0.1  # share of the items that are not hidden
_LATER_S = 30 * 86_400


def hide_items(dataset: Dataset, seed: int, share: float = 0.2) -> Dataset:
    """Return the same events with their part: test for a share of the items, valid for a tenth of the rest, else train.

    The hidden items are the first of a permutation of the items table by `default_rng(seed)`; the valid items are the
    first of a second permutation, of the rest. A user's rows of valid items are moved to a month after their last
    training row, and those of hidden items to a month later still. So they see the user's whole history and counts, but
    neither each other nor a mood of other days.
    """
    rng = np.random.default_rng(seed)
    ids = dataset.items["item_id"].to_numpy()
    shuffled = ids[rng.permutation(len(ids))]
    hidden, seen = np.split(shuffled, [round(share * len(ids))])
    valid = rng.permutation(seen)[: round(HELD * len(seen))]
    part = (
        pl.when(pl.col("item_id").is_in(pl.Series(hidden).implode()))
        .then(pl.lit("test"))
        .when(pl.col("item_id").is_in(pl.Series(valid).implode()))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    later = pl.col("part").replace_strict({"train": 0, "valid": 1, "test": 2}, return_dtype=pl.Int64)
    last = pl.col("at").filter(pl.col("part") == "train").max().over("user_id")
    # A user without training rows keeps the order of the parts.
    last = last.fill_null(pl.col("at").max().over("user_id"))
    events = (
        dataset.events.with_columns(part=part)
        .with_columns(at=pl.when(later > 0).then(last + later * _LATER_S).otherwise(pl.col("at")))
        .sort("at", *id_order("user_id"), *id_order("item_id"), maintain_order=True)
    )
    config = dataset.config.model_copy(update={"split": SplitConfig(column="part")})
    return replace(dataset, config=config, events=events, fingerprint=fingerprint_of(dataset.fingerprint, "cold", seed))
