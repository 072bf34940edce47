"""Between nights: what the crosses of the served model must add for the impressions since, as a new bundle of the same
graph. Nothing changes before its last step, so that an interrupted refresh is run again.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console

from msd.bootstrap import resampled_sums
from msd.contract.bundle import open_bundle
from msd.contract.correction import HEAD, MAX_SHIFT, OF_USER, LearnedCorrection, read_corrections, write_corrections
from msd.contract.request import ANONYMOUS_PREFIX
from msd.dataset.conversions import CONVERSION, has_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.demo.steps import Steps
from msd.feedback.arms import Estimate
from msd.feedback.collect import collected
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import read_events, read_requests, recent_files
from msd.feedback.gate import Check, above_zero
from msd.feedback.impressions import join
from msd.metrics import row_losses, sigmoid
from msd.nightly.config import NightlyConfig
from msd.nightly.cost import noted
from msd.nightly.record import Kept, NightRecord, RefreshRecord
from msd.nightly.rollout import check_experiment
from msd.nightly.served import (
    NIGHTS,
    REFRESHES,
    Served,
    finished_nights,
    place_after,
    place_bundle,
    prune_refreshes,
    without_refused,
)
from msd.ranker.arrays import Arrays
from msd.ranker.features import Features, build_features
from msd.student.vectors import load_vectors, no_vectors
from msd.training.folder import load_ranker, save_ranker
from msd.training.refresh import Line, Refreshed, RefreshError, refresh_ranker
from msd.training.train import predict

_WAITED_FOR = 0.99
"""Share of the clicks that an impression waits for."""
_KNOWN_DELAYS = 100  # fewest, to tell it by
_LONGEST_NAME = 100
Floats = NDArray[np.float64]


class Refresh:
    """One refresh, its record so far, and its working folder, which is emptied first."""

    def __init__(self, config: NightlyConfig, console: Console) -> None:
        self.config, self.folder = config, config.work / REFRESHES
        self.record = RefreshRecord(started_at=time.time())
        self._work = self.folder / ".work"
        self._learned: LearnedCorrection | None = None
        self._steps = Steps(console, total=2 + (config.redis is not None))

    def run(self) -> RefreshRecord:
        """Run it, and return its record, which is also the folder's latest."""
        self.record.keep(self._run, self.folder, self._steps.console)
        shutil.rmtree(self._work, ignore_errors=True)
        return self.record

    def _run(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        check_experiment(self.config, "")
        served, night = self._served()
        nights = finished_nights(self.config)
        accepted = [one for one in nights if one.is_accepted]
        old = load_dataset(self.config.work / NIGHTS / accepted[-1].night / "dataset")
        with collected(self.config.logs, self.config.work / "logs") as logs, noted(self.record.steps, "join"):
            shown = self._joined(logs, old, nights, accepted[-1].cut)
        with noted(self.record.steps, "fit"):
            since = float(shown["at"][-1]) - 86_400 * self.config.window.days
            write_dataset(shown, old, self._work / "dataset", since=since, by_time=True)
            self._fit(served, night)
        name = f"{night.night[:_LONGEST_NAME]}.{datetime.fromtimestamp(self.record.until, UTC):%m%dT%H%M%S}"
        bundle = self._export(served, night)
        self._publish(bundle, name)

    def _served(self) -> tuple[Served, NightRecord]:
        """Return what serves, if a night here trained it and no operator returned to it."""
        served = Served.of(self.config)
        if served.night is None or not served.model.is_dir():
            raise Kept(f"{served.bundle.name}: no night here trained the served bundle; a refresh follows the next one")
        previous = self.config.pointed("previous")
        dates = [open_bundle(one, rows=False).manifest.created_at for one in (served.bundle, previous) if one]
        if dates[-1] > dates[0]:
            raise Kept(f"{served.bundle.name}: an operator returned to this bundle; a refresh follows the next night")
        self.record.base = served.night.night
        return served, served.night

    def _joined(self, logs: Sequence[Path], old: Dataset, nights: Sequence[NightRecord], cut: float) -> pl.DataFrame:
        """Return the impressions after the `cut` of the last accepted night whose clicks have come."""
        record, config = self.record, self.config
        requests, events = recent_files(logs, cut)
        if not (requests and events):
            raise Kept("the logs have no requests or no events since the last night")
        settle_s = 60 * config.refresh.settle_minutes
        windows = replace(config.window.windows(record.started_at), settle_s=settle_s, new_since=cut)
        joined = join(
            read_requests(requests, ("request",)),
            (frame.filter(pl.col("type") != CONVERSION) for frame in read_events(events)),
            windows,
            describe=partial(describe, config=old.config),
        )
        frame, left_out = without_refused(joined.frame, nights)
        record.waited_s = self._wait(frame, joined.ends_at, settle_s)
        frame = frame[place_after(frame, cut) :].filter(pl.col("received_at") <= joined.ends_at - record.waited_s)
        record.counts = {**joined.told, "impressions_of_refused_nights": sum(left_out.values())}
        self._check(frame, old, joined.told)
        # What has converted by now is not known: no head for conversions is changed.
        return frame.with_columns(pl.lit(0, pl.Int8).alias(CONVERSION)) if has_conversions(old.events) else frame

    def _wait(self, shown: pl.DataFrame, ends_at: float, settle_s: float) -> float:
        """Return how long an impression waits: until nearly all clicks have come, within the window's bounds."""
        most_s = 3_600 * self.config.window.settle_hours
        settled = shown.filter(pl.col("received_at") <= ends_at - most_s)["click_after_s"].drop_nulls()
        if len(settled) < _KNOWN_DELAYS:
            return max(settle_s, most_s)
        return max(settle_s, min(most_s, float(settled.quantile(_WAITED_FOR, "higher") or 0.0)))

    def _check(self, shown: pl.DataFrame, old: Dataset, told: Mapping[str, int]) -> None:
        """Refuse impressions that are too few, or that a night would refuse: of bots, or with clicks that are lost."""
        record, bounds = self.record, self.config.input
        if shown.is_empty():
            raise Kept("no impression since the last night has settled")
        record.until, record.rows = float(shown["at"][-1]), shown.height
        record.clicks = int(shown["label"].sum())
        latest = shown.filter(pl.col("at") > record.until - 60 * self.config.refresh.judge_minutes)
        lost = told["new_unjoined_clicks"]
        if lost > bounds.unjoined_clicks * told["new_clicks"]:
            raise Kept(f"{lost} of {told['new_clicks']} new clicks join no impression")
        rates = {"dataset": old.events["label"].mean(), "new": shown["label"].mean(), "latest": latest["label"].mean()}
        record.click_rates = {name: float(rate) for name, rate in rates.items()}  # type: ignore[arg-type]
        then = record.click_rates["dataset"]
        for name, rate in record.click_rates.items():
            if not then / bounds.click_rate <= rate <= then * bounds.click_rate:
                raise Kept(
                    f"the click rate of the {name} impressions is {rate:.4f}, that of the dataset {then:.4f}: more than"
                    f" a factor of {bounds.click_rate:g}"
                )
        clicks, least = int(latest["label"].sum()), self.config.refresh.clicks
        if min(clicks, latest.height - clicks) < least:
            raise Kept(
                f"{clicks} clicks on the latest {latest.height} impressions; needs {least}, and as many without one"
            )

    def _fit(self, served: Served, night: NightRecord) -> None:
        """Write the refreshed model, if it is better than the served one on the latest impressions."""
        data, record, config = load_dataset(self._work / "dataset"), self.record, self.config
        trained, of_model = load_ranker(config.work / NIGHTS / night.night / "model")
        student = config.work / NIGHTS / night.night / "student"
        vectors = load_vectors(student) if of_model.student else no_vectors()
        with TemporaryDirectory(dir=self._work) as arrays:
            features = build_features(data, of_model.feature_schema, vectors, arrays=Arrays(Path(arrays))).live()
            times = data.events["at"].to_numpy().astype(np.float64)
            rows = np.flatnonzero(times > night.cut)[-config.refresh.rows :]
            at = times[rows]
            latest = at > at[-1] - 60 * config.refresh.judge_minutes
            anonymous = data.events["user_id"].str.starts_with(ANONYMOUS_PREFIX).to_numpy()[rows]
            line = correction_of(self._correction(served), features, rows, anonymous)
            try:
                found = refresh_ranker(trained, features, rows, at, latest, line)
            except RefreshError as error:
                raise Kept(str(error)) from None
            record.half_life_s = found.half_life_s
            own = line._replace(offset=line.offset[latest])
            check = self._compared(served, features, rows[latest], own, found)
        record.checks = [check]
        if not check.holds:
            raise Kept(str(check))
        save_ranker(self._work / "model", found.model, of_model.model_copy(update={"dataset": data.fingerprint}))

    def _correction(self, served: Served) -> LearnedCorrection | None:
        """Return the correction of the served bundle, with which the new one is fitted and starts."""
        path = self.config.corrections
        if path is not None:
            bundle_id = open_bundle(served.bundle, rows=False).bundle_id
            self._learned = read_corrections(path).get(bundle_id)
        return self._learned

    def _compared(
        self, served: Served, features: Features, latest: NDArray[np.int64], line: Line, found: Refreshed
    ) -> Check:
        """Return whether other users' impressions predict the latest ones better than what serves, by logloss."""
        scores = predict(load_ranker(served.model).model, features, latest)
        old = sigmoid(line(np.log(scores) - np.log1p(-scores)))
        labels, shown = features.outcomes(latest)
        before, after = row_losses(labels, np.stack([old, found.unseen]))
        sums = np.stack([shown * (before - after), shown])
        drawn, whole = resampled_sums(features.people(latest), sums), sums.sum(1)
        gain, error = float(whole[0] / whole[1]), float(np.std(drawn[0] / drawn[1]))
        z = NormalDist().inv_cdf(1 - self.config.refresh.chance)
        estimate = Estimate(gain, (gain - z * error, gain + z * error))
        return above_zero("gain of logloss on the latest impressions", estimate, is_needed=True)

    def _export(self, served: Served, night: NightRecord) -> Path:
        """Return the bundle of the refreshed model, with the served one's graph and encoder."""
        config, folder = self.config, self.config.work / NIGHTS / night.night
        whole = config.work / "knowledge.whole"
        knowledge = whole if whole.is_dir() else config.knowledge
        student = folder / "student"
        read = [*([knowledge] if knowledge else []), student] if student.is_dir() else list[Path]()
        bundle = self._work / "bundle"
        with noted(self.record.steps, "export"):
            folders = (self._work / "dataset", *read, self._work / "model", bundle)
            self._steps.call("export", "export", *folders, *config.export, "--like", served.bundle)
        self.record.bundle_id = open_bundle(bundle, rows=False).bundle_id
        return bundle

    def _publish(self, bundle: Path, name: str) -> None:
        """Let the bundle serve, and remove refreshes that no pointer leads to."""
        config, record = self.config, self.record
        record.name, record.status = name, "promoted"
        own = self.folder / name
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        (self._work / "model").rename(own / "model")
        record.write(own)
        place = place_bundle(config, bundle, name)
        if config.corrections and self._learned:
            known = read_corrections(config.corrections)
            write_corrections(config.corrections, {record.bundle_id: self._learned} | known)
        with noted(record.steps, "publish"):
            if config.redis:
                self._steps.call("publish", "publish", place, "--redis", config.redis)
            self._steps.call("point", "rollback", config.bundles, "--to", name)
        prune_refreshes(config)


def correction_of(
    learned: LearnedCorrection | None, features: Features, rows: NDArray[np.int64], anonymous: NDArray[np.bool_]
) -> Line:
    """Return how services correct rows [n], of anonymous users or known ones, with shifts of their segments but the
    place of the page, for which no row says that it was scored."""
    shift = np.zeros(len(rows))
    if learned is None:
        return Line(shift)
    shift += learned.shift
    codes = features.context_categorical[torch.from_numpy(rows)].numpy()
    shifts = next(line[-1] for line in learned.lines_for(features.schema) if line[0] == HEAD)
    for column, value, own in shifts:
        if column == OF_USER or column >= 0:
            has = anonymous == bool(value) if column == OF_USER else codes[:, column] == value
            shift += np.where(has, own, 0.0)
    return Line(learned.centre * (1 - learned.slope) + np.clip(shift, -MAX_SHIFT, MAX_SHIFT), learned.slope)
