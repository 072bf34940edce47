"""Which requests the two bundles of a rollout answer differently. In all others both arms show the same ads, so that
what these earn differs by chance alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from msd.contract.correction import HEAD
from msd.contract.pricing import ecpm_of, served_places
from msd.feedback.judge import Pair

MOST = 200_000
"""Requests of a stage that are scored again, which takes about 1.5 ms each."""


class Choices:
    """Scores requests of a stage by both bundles, each once. Both arms are scored alike, and not by what was logged, so
    that the arm does not decide which requests count."""

    def __init__(self, bundles: Pair, most: int = MOST) -> None:
        self._bundles, self._most = bundles, most
        self._known: dict[str, bool] = {}

    def mark(self, shown: pl.DataFrame, requests: Iterable[pl.DataFrame]) -> pl.DataFrame:
        """Return impressions with a column `differs`: whether the bundles rank other candidates in the places
        that were shown. It is null for requests that were not scored, a random share if there are more than `most`.

        `requests` are the log's, with JUDGE_COLUMNS.
        """
        # A power of two, so that a later, longer look has scored some of its requests already.
        halves = max(0, int(np.ceil(np.log2(shown["request_id"].n_unique() / self._most))))
        drawn = shown.filter(pl.col("request_id").hash(seed=0) % 2**halves == 0)
        counts = dict(drawn.group_by("request_id").len().iter_rows())
        due = pl.DataFrame({"request_id": [one for one in counts if one not in self._known]}, {"request_id": pl.String})
        for frame in requests:
            for row in frame.join(due, on="request_id", how="semi").iter_rows(named=True):
                self._known[row["request_id"]] = self._differs(row, counts[row["request_id"]])
        found = [self._known.get(one) if one in counts else None for one in shown["request_id"].to_list()]
        return shown.with_columns(differs=pl.Series(found, dtype=pl.Boolean))

    def _differs(self, row: Mapping[str, Any], count: int) -> bool:
        state = next((state for one in self._bundles if (state := one.state_of(row)) is not None), None)
        orders = []
        for one in self._bundles:
            scored = one.score_shown(row, state, ())
            if scored is None:  # refused by one, so that its arm has no answer
                return True
            ecpm = ecpm_of(row["bids"], row["pricing"], scored.served, one.bundle.manifest.formula)
            orders.append(served_places(ecpm, scored.served[HEAD], count))
        old, new = orders
        return not np.array_equal(old, new)
