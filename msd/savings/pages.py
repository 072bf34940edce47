"""Pages of a dataset's test period: a user, the user's earlier likes, and the items shown, with their labels.

Knows datasets. Requests no scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from msd.contract.errors import MsdError
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

_LIKED = 10
_FEWEST, _MOST = 5, 40


@dataclass(frozen=True)
class Page:
    """One page of a user. `labels`: of the first of `items`; the other items fill the page up and have no label."""

    user_id: str
    at: int
    context: dict[str, Any]
    liked: list[str]
    items: list[str]
    labels: list[int]

    def request(self, count: int) -> dict[str, Any]:
        """Return the scoring request for the first `count` items."""
        candidates = {"id": self.items[:count]}
        return {"user_id": self.user_id, "at": self.at, "context": self.context, "candidates": candidates}


def pages_of(dataset: Dataset, context: Sequence[str], users: int, candidates: int, seed: int = 0) -> list[Page]:
    """Return pages of up to `users` users, drawn from those with at least 5 test events; each page is filled up to
    `candidates` items.

    A page is requested at the time of its first event, with the `context` fields of that event, those that a request
    may have. Raises MsdError if no user has enough events.
    """
    events = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))
    counts = events.filter(pl.col("part") == Part.TEST).group_by("user_id").len().sort("user_id")
    able = counts.filter(pl.col("len") >= _FEWEST)["user_id"].to_numpy()
    if not len(able):
        raise MsdError(f"{dataset.folder}: no user has {_FEWEST} events in the test part")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(able)[:users]
    return [_page(dataset, context, events.filter(pl.col("user_id") == user), candidates, rng) for user in chosen]


def _page(
    dataset: Dataset, context: Sequence[str], events: pl.DataFrame, candidates: int, rng: np.random.Generator
) -> Page:
    test = events.filter(pl.col("part") == Part.TEST).unique("item_id", keep="first", maintain_order=True).head(_MOST)
    first = test.row(0, named=True)
    before = events.filter((pl.col("at") < first["at"]) & (pl.col("label") == 1))
    met = test["item_id"].to_list()
    others = dataset.items.filter(~pl.col("item_id").is_in(events["item_id"].to_list()))["item_id"].to_numpy()
    return Page(
        str(first["user_id"]),
        int(first["at"]),
        {name: first[name] for name in context},
        before["item_id"].tail(_LIKED).to_list(),
        [*met, *rng.permutation(others)[: max(0, candidates - len(met))].tolist()],
        test["label"].to_list(),
    )
