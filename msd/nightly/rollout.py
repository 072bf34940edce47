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

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from msd.contract.bundle import MANIFEST
from msd.contract.files import sha256_file, write_text_atomic
from msd.feedback.arms import compare, plain
from msd.feedback.gate import Check, counted
from msd.nightly.config import NightlyConfig, NightlyError, RolloutConfig
from msd.nightly.stage import NEW, OLD, Stage, checks_of_arms, decided_by, looks_of
from msd.nightly.stage_log import StageLog
from msd.step import fingerprint_of

EXPERIMENT = "experiment.json"
_STAGES = "rollout.json"
_POLL_S = 10.0


class _Known(BaseModel):
    """Stages of a rollout, by the fingerprint of its bundle, shares and bounds."""

    rollout: str
    stages: list[Stage] = []

    @classmethod
    def read(cls, path: Path, rollout: str) -> Self:
        """Return what is known of this rollout: nothing if the file is of another one, or damaged."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls(rollout=rollout)
        return found if found.rollout == rollout else cls(rollout=rollout)


def roll_out(config: NightlyConfig, rollout: RolloutConfig, folder: Path, name: str) -> list[Stage]:
    """Give the bundle `name` in the folder of bundles one share of the users after the other, and return the stages, up
    to the first that does not grow. The experiment ends with it, or with an error; after the last share it stays until
    `end_rollout`. What is done is kept in `folder`; an interrupted stage begins again, and all do for another bundle of
    this name, or other bounds. Raises NightlyError if another experiment runs.
    """
    check_experiment(config, name)
    place = config.bundles / EXPERIMENT
    manifest = sha256_file(config.bundles / name / MANIFEST)
    known = _Known.read(folder / _STAGES, fingerprint_of(manifest, rollout.model_dump(), config.bounds))
    stages = known.stages
    try:
        for number, share in enumerate(rollout.shares):
            if number == len(stages):
                arms = [{"name": OLD, "bundle": "current", "weight": 1 - share}]
                arms += [{"name": NEW, "bundle": name, "weight": share}]
                write_text_atomic(place, json.dumps({"salt": _salt(name), "arms": arms}, indent=2) + "\n")
                is_last = number == len(rollout.shares) - 1
                stage = Stage(share=share, began=time.time())
                stages.append(_watched(config, rollout, stage, config.bundles / name, is_last))
                write_text_atomic(folder / _STAGES, known.model_dump_json(indent=2))
            if stages[-1].decision != "grow":
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


def _watched(config: NightlyConfig, rollout: RolloutConfig, stage: Stage, new: Path, decides: bool) -> Stage:
    """Return the stage of the bundle `new` at its end: at the look that decides it, or as soon as services fail."""
    before, log = _counted(rollout.services), StageLog(config, new, stage.began)
    for look in looks_of(rollout):
        due, checks = stage.began + look.after_s, list[Check]()
        while True:
            time.sleep(max(0.0, min(_POLL_S, 15 * rollout.hold_minutes, due - time.time())))
            after, now = _counted(rollout.services), time.time()
            checks = list(_service_checks(before, after, rollout))
            if now >= due or not all(check.holds for check in checks):
                break
        if rollout.services:
            checks.append(counted("services that answer", len(after), "at least 1", bool(after)))
        shown = log.shown(now)
        checks += checks_of_arms(config.gate, rollout, shown, look)
        decision = decided_by(checks, look, decides)
        if decision != "continue":
            arms = compare(shown, OLD) if shown["arm"].n_unique() == 2 else {}
            figures: Any = plain(arms)
            return stage.model_copy(update={"ended": now, "arms": figures, "checks": checks, "decision": decision})
    raise AssertionError("the last look decides")


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
    yield counted("services that refuse the new bundle", refusing, "none", not refusing)
    began = {url: before.get(url, _Counts(0, 0, False)) for url in after}
    # A service that started again counts from 0.
    began = {url: one if one.requests <= after[url].requests else _Counts(0, 0, False) for url, one in began.items()}
    requests, failed = (
        sum(getattr(one, name) - getattr(began[url], name) for url, one in after.items())
        for name in ("requests", "failed")
    )
    share = failed / requests if requests else 0.0
    yield counted("share of failed requests", share, f"at most {rollout.errors:g}", share <= rollout.errors)
