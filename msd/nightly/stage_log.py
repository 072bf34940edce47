"""What both arms of a rollout's stage have shown, as services logged it."""

from functools import cached_property
from pathlib import Path

import polars as pl

from msd.contract.correction import read_corrections
from msd.contract.log import EVENTS, REQUESTS
from msd.feedback.collect import collected
from msd.feedback.files import JUDGE_COLUMNS, FeedbackError, read_events, read_requests
from msd.feedback.impressions import join
from msd.feedback.scored_bundle import ScoredBundle
from msd.nightly.choices import Choices
from msd.nightly.config import NightlyConfig
from msd.nightly.stage import NEW, OLD


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
            requests, recent = (
                [file for one in folders for file in one.glob(f"{kind}-*.parquet") if file.stat().st_mtime >= since]
                for kind in (REQUESTS, EVENTS)
            )
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
    def _choices(self) -> Choices:
        corrections = read_corrections(self._config.corrections) if self._config.corrections else {}
        return Choices((ScoredBundle(self._config.served(), corrections), ScoredBundle(self._new, corrections)))
