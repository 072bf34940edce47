"""What both arms of a rollout's stage have shown, as services logged it, and which requests the two bundles answer
differently: in all others both arms show the same ads, so that what these earn differs by chance alone.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from msd.contract.correction import HEAD, read_corrections
from msd.contract.pricing import ecpm_of, served_places
from msd.feedback.collect import collected
from msd.feedback.files import JUDGE_COLUMNS, FeedbackError, read_events, read_requests, recent_files
from msd.feedback.impressions import join
from msd.feedback.judge import Pair
from msd.feedback.scored_bundle import ScoredBundle
from msd.nightly.config import NightlyConfig
from msd.nightly.stage import NEW, OLD

MOST = 200_000
"""Requests of a stage that are scored again, which takes about 1.5 ms each."""


class StageLog:
    """The log of requests `since` a time (Unix s), and the bundle `new` that is rolled out."""

    def __init__(self, config: NightlyConfig, new: Path, since: float) -> None:
        self._config, self._new, self._since = config, new, since

    def shown(self, now: float) -> pl.DataFrame:
        """Return the settled impressions of both arms, and whether the bundles differ (`Choices.mark`); none if nothing
        is settled yet. Conversions, which take longer than a stage, do not count."""
        config, since = self._config, self._since
        none = pl.DataFrame(schema={"arm": pl.String, "label": pl.Int8})
        with collected(config.logs, config.work / "logs") as folders:
            requests, recent = recent_files(folders, since)
            if not (requests and recent):
                return none
            events = (frame.filter(pl.col("type") != "conversion") for frame in read_events(recent))
            kept, windows = ("total_ms",), config.window.windows(now)
            try:
                joined = join(read_requests(requests, kept), events, windows, kept).frame
            except FeedbackError:  # nothing is settled yet
                return none
            shown = joined.filter((pl.col("received_at") >= since) & pl.col("arm").is_in([OLD, NEW]))
            if shown["arm"].n_unique() < 2:
                return shown
            return self._choices.mark(shown, read_requests(requests, JUDGE_COLUMNS))

    @cached_property
    def _choices(self) -> "Choices":
        corrections = read_corrections(self._config.corrections) if self._config.corrections else {}
        return Choices((ScoredBundle(self._config.served(), corrections), ScoredBundle(self._new, corrections)))


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
