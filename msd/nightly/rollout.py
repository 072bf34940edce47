"""A share of the users is scored by a new bundle, then a larger one, while what services log and count holds; else the
share returns to 0. Services follow the experiment in their folder of bundles. Does not know where the bundle came from.
"""

import json
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.request import urlopen

import polars as pl
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.bundle import MANIFEST
from msd.contract.files import sha256_file, write_text_atomic
from msd.contract.log import EVENTS, REQUESTS
from msd.feedback.arms import ArmFigures, compare, plain
from msd.feedback.collect import collected
from msd.feedback.files import FeedbackError, read_events, read_requests
from msd.feedback.gate import Check, factor_of
from msd.feedback.impressions import join
from msd.nightly.config import NightlyConfig, NightlyError, RolloutConfig

EXPERIMENT = "experiment.json"
_STAGES = "rollout.json"
_OLD, _NEW = "champion", "new"
_POLL_S = 10.0


class Stage(BaseModel):
    """A share of the users, its time (Unix s; `ended` is 0 until then), figures by arm, and what was checked."""

    model_config = ConfigDict(extra="forbid")

    share: float
    began: float = 0.0
    ended: float = 0.0
    arms: dict[str, Any] = {}
    checks: list[Check] = []

    @property
    def holds(self) -> bool:
        """Return whether the share may grow."""
        return all(check.holds for check in self.checks)


class _Known(BaseModel):
    """Stages of a bundle, by the SHA-256 of its manifest."""

    manifest: str
    stages: list[Stage] = []

    @classmethod
    def read(cls, path: Path, manifest: str, shares: list[float]) -> Self:
        """Return what is known of this bundle: nothing if the file is of another one, of other shares, or damaged."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls(manifest=manifest)
        begun = [stage.share for stage in found.stages]
        is_same = found.manifest == manifest and begun == shares[: len(begun)]
        return found if is_same else cls(manifest=manifest)


def roll_out(config: NightlyConfig, rollout: RolloutConfig, folder: Path, name: str) -> list[Stage]:
    """Give the bundle `name` in the folder of bundles one share of the users after the other, and return the stages, up
    to the first that does not hold. The experiment ends with it, or with an error; after the last share it stays until
    `end_rollout`. What is done is kept in `folder`; an interrupted stage begins again, and all do for another bundle of
    this name, or other shares. Raises NightlyError if another experiment runs.
    """
    check_experiment(config, name)
    place = config.bundles / EXPERIMENT
    known = _Known.read(folder / _STAGES, sha256_file(config.bundles / name / MANIFEST), rollout.shares)
    stages = known.stages
    try:
        for number, share in enumerate(rollout.shares):
            if number == len(stages):
                arms = [{"name": _OLD, "bundle": "current", "weight": 1 - share}]
                arms += [{"name": _NEW, "bundle": name, "weight": share}]
                write_text_atomic(place, json.dumps({"salt": _salt(name), "arms": arms}, indent=2) + "\n")
                stages.append(_watched(config, rollout, Stage(share=share, began=time.time())))
                write_text_atomic(folder / _STAGES, known.model_dump_json(indent=2))
            if not stages[-1].holds:
                end_rollout(config)
                break
    except BaseException:
        end_rollout(config)
        raise
    return stages


def check_experiment(config: NightlyConfig, name: str) -> None:
    """Raise NightlyError if another experiment than the rollout of the bundle `name` runs."""
    place = config.bundles / EXPERIMENT
    try:
        if not place.exists() or json.loads(place.read_bytes())["salt"] == _salt(name):
            return
    except (ValueError, KeyError, TypeError, RecursionError):  # not one of services either
        pass
    raise NightlyError(f"{place}: another experiment runs; end it, then run the night again")


def _salt(name: str) -> str:
    return f"rollout-{name}"


def end_rollout(config: NightlyConfig) -> None:
    """Let `current` score all users."""
    (config.bundles / EXPERIMENT).unlink(missing_ok=True)


def _watched(config: NightlyConfig, rollout: RolloutConfig, stage: Stage) -> Stage:
    """Return the stage at its end: after the time to hold, once there are clicks enough; or as soon as services fail,
    or after `most_hours`."""
    before = _counted(rollout.services)
    due, latest = stage.began + 60 * rollout.hold_minutes, stage.began + 3_600 * rollout.most_hours
    while True:
        time.sleep(min(_POLL_S, 15 * rollout.hold_minutes))
        now = time.time()
        after = _counted(rollout.services)
        checks = list(_service_checks(before, after, rollout))
        is_over = not all(check.holds for check in checks) or now >= latest
        arms, medians = _logged(config, stage.began, now) if is_over or now >= due else ({}, {})
        clicks = arms[_NEW].clicks if len(arms) == 2 else 0
        if not is_over and (now < due or clicks < rollout.clicks):
            continue
        if rollout.services:
            checks.append(Check("services that answer", len(after), "at least 1", bool(after)))
        checks.append(Check("clicks of the new bundle", clicks, f"at least {rollout.clicks}", clicks >= rollout.clicks))
        if checks[-1].holds:
            checks += _arm_checks(config, arms, medians)
        shown: Any = plain({name: vars(arm) for name, arm in arms.items()})
        return stage.model_copy(update={"ended": now, "arms": shown, "checks": checks})


def _logged(config: NightlyConfig, since: float, now: float) -> tuple[dict[str, ArmFigures], dict[str, float]]:
    """Return the figures of both arms from settled impressions of requests `since` then, and their median milliseconds;
    none of an arm without impressions."""
    with collected(config.logs, config.work / "logs") as folders:
        recent = {
            kind: [file for one in folders for file in one.glob(f"{kind}-*.parquet") if file.stat().st_mtime >= since]
            for kind in (REQUESTS, EVENTS)
        }
        if not all(recent.values()):
            return {}, {}
        # Conversions take longer than a stage.
        events = (frame.filter(pl.col("type") != "conversion") for frame in read_events(recent[EVENTS]))
        kept, windows = ("total_ms",), config.window.windows(now)
        try:
            shown = join(read_requests(recent[REQUESTS], kept), events, windows, kept).frame
        except FeedbackError:  # nothing is settled yet
            return {}, {}
    shown = shown.filter((pl.col("received_at") >= since) & pl.col("arm").is_in([_OLD, _NEW]))
    if shown["arm"].n_unique() < 2:
        return {}, {}
    medians = dict(shown.group_by("arm").agg(pl.col("total_ms").median()).iter_rows())
    return compare(shown, _OLD), medians


def _arm_checks(config: NightlyConfig, arms: Mapping[str, ArmFigures], medians: Mapping[str, float]) -> Iterator[Check]:
    gate, old, new = config.gate, arms[_OLD], arms[_NEW]
    metric = "rpm" if old.revenue and new.revenue else "ctr"
    assert new.differences is not None, "it is not the champion"
    highest = new.differences[metric].absolute.ci95[1]
    yield Check(f"gain of {metric}, at most (95 %)", highest, "at least 0", highest >= 0)
    own, other = new.predicted_over_observed, old.predicted_over_observed
    if new.clicks >= gate.clicks and own is not None and other is not None:
        ours, most = factor_of(own), max(gate.calibration, factor_of(other))
        yield Check("calibration, as a factor", ours, f"at most {most:.4g}", ours <= most)
    ratio = medians[_NEW] / medians[_OLD]
    yield Check("latency, new ÷ old", ratio, f"at most {gate.latency:g}", ratio <= gate.latency)


class _Counts(NamedTuple):
    """Of one service: scoring requests, failed ones, and whether it refuses a bundle."""

    requests: float
    failed: float
    refuses: bool


def _counted(services: list[str]) -> dict[str, _Counts]:
    """Return the counts of services that answer."""
    found = {}
    for url in services:
        try:
            with urlopen(f"{url.rstrip('/')}/metrics", timeout=5) as reply:
                text = reply.read().decode()
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            by_code = {one.labels["code"]: one.value for one in samples if one.name == "msd_requests_total"}
        except (OSError, HTTPException, ValueError, KeyError):  # it starts or ends, or another server answers
            continue
        failed = sum(value for code, value in by_code.items() if code.startswith("5"))
        refuses = any(one.value for one in samples if one.name == "msd_bundle_refused")
        found[url] = _Counts(sum(by_code.values()), failed, refuses)
    return found


def _service_checks(
    before: Mapping[str, _Counts], after: Mapping[str, _Counts], rollout: RolloutConfig
) -> Iterator[Check]:
    refusing = sum(one.refuses for one in after.values())
    yield Check("services that refuse the new bundle", refusing, "none", not refusing)
    began = {url: before.get(url, _Counts(0, 0, False)) for url in after}
    # A service that started again counts from 0.
    began = {url: one if one.requests <= after[url].requests else _Counts(0, 0, False) for url, one in began.items()}
    requests, failed = (
        sum(getattr(one, name) - getattr(began[url], name) for url, one in after.items())
        for name in ("requests", "failed")
    )
    share = failed / requests if requests else 0.0
    yield Check("share of failed requests", share, f"at most {rollout.errors:g}", share <= rollout.errors)
