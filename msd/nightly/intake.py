"""The impressions of one night: those that are new, what refuses them, and the dataset that they continue."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from msd.contract.files import write_text_atomic
from msd.dataset.aggregate import impressions_of
from msd.dataset.conversions import has_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import read_events, read_requests
from msd.feedback.impressions import Joined, join
from msd.feedback.outcomes import say_unjoined
from msd.nightly.config import NightlyConfig
from msd.nightly.record import Kept, NightRecord
from msd.nightly.served import place_after, without_refused

JOINED, HELD_OUT = "joined.json", "impressions.parquet"


class Intake:
    """What comes into a night's `folder`. Notes counts and times in its record; `others` are the records of nights
    before, by time."""

    def __init__(self, config: NightlyConfig, folder: Path, record: NightRecord, others: Sequence[NightRecord]) -> None:
        self.config, self.folder, self.record, self._others = config, folder, record, others

    def join(self, logs: Sequence[Path]) -> None:
        """Write the dataset up to the cut, and the impressions after it, once. Raises Kept, why there is nothing to
        train on."""
        record, mark, window = self.record, self.folder / JOINED, self.config.window
        if mark.is_file():
            done = NightRecord.model_validate_json(mark.read_bytes())
            for name in ("counts", "left_out", "click_rates", "began", "cut", "until", "is_accepted"):
                setattr(record, name, getattr(done, name))
            return
        out = self.folder / "dataset"
        shutil.rmtree(out, ignore_errors=True)
        accepted = [one for one in self._others if one.is_accepted]
        place = self.folder.parent / accepted[-1].night / "dataset" if accepted else self.config.dataset
        old = load_dataset(place)
        record.began = accepted[-1].until if accepted else float(old.events["at"].max())  # type: ignore[arg-type]
        windows = replace(window.windows(record.started_at), new_since=record.began)
        known = has_conversions(old.events)
        joined = join(
            read_requests(logs, ("request",)),
            read_events(logs),
            windows,
            has_conversions=known,
            describe=partial(describe, config=old.config),
        )
        frame, record.left_out = without_refused(joined.frame, self._others)
        fresh = frame[place_after(frame, record.began) :]
        refused = joined.frame.height - frame.height
        record.counts = {**joined.told, "impressions_of_refused_nights": refused, "new_impressions": fresh.height}
        if fresh.height < self.config.input.impressions:
            raise Kept(f"{fresh.height} new impressions are fewer than {self.config.input.impressions}")
        record.until = float(fresh["at"][-1])
        record.cut = float(fresh["at"][int((1 - window.judge_share) * (fresh.height - 1))])
        self._check_unjoined(joined)
        self._check_click_rate(old, fresh, joined.ends_at)
        since = record.until - 86_400 * window.days
        cut = place_after(frame, record.cut)
        write_dataset(frame[:cut], old, out, since=since, by_time=True)
        frame[cut:].lazy().sink_parquet(self.folder / HELD_OUT)
        record.is_accepted = True
        write_text_atomic(mark, record.model_dump_json())

    def _check_unjoined(self, joined: Joined) -> None:
        """Refuse impressions whose clicks are lost: they would count as not clicked."""
        lost, clicks = joined.told["new_unjoined_clicks"], joined.told["new_clicks"]
        if lost > self.config.input.unjoined_clicks * clicks:
            self.record.until = max(self.record.until, joined.ends_at)  # with what has not settled yet
            raise Kept(
                f"{lost} of {clicks} new clicks join no impression; their impressions are left out of this and of later"
                f" nights; {say_unjoined(joined.told)}"
            )

    def _check_click_rate(self, old: Dataset, fresh: pl.DataFrame, ends_at: float) -> None:
        # A night that was kept may have been one of bots, whose click rate would refuse all later ones.
        nights = [one for one in self._others if one.click_rates]
        promoted = [one.click_rates["new"] for one in nights if one.status == "promoted"]
        before = promoted[-1:] or [one.click_rates["dataset"] for one in nights[:1]]
        then = before[0] if before else float(np.average(old.events["label"], weights=impressions_of(old.events)))
        now = float(fresh["label"].mean())  # type: ignore[arg-type]
        self.record.click_rates = {"dataset": then, "new": now}
        most = self.config.input.click_rate
        if not then / most <= now <= then * most:
            self.record.until = max(self.record.until, ends_at)  # with what has not settled yet
            raise Kept(
                f"the new impressions' click rate is {now:.4f}, that of the served bundle's dataset {then:.4f}: more"
                f" than a factor of {most:g}; they are left out of this and of later nights"
            )
