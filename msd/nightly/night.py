"""One night: logs to data, data to a bundle, the verdict, and its consequence. Each step is done once, so that an
interrupted night resumes where it ended; the served bundle changes only in the last.
"""

import json
import shutil
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from msd.contract.bundle import MANIFEST
from msd.contract.correction import LearnedCorrection, read_corrections, write_corrections
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.dataset.aggregate import impressions_of
from msd.dataset.conversions import has_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.demo.service import DemoError
from msd.demo.steps import Steps
from msd.feedback.collect import collected
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import JUDGE_COLUMNS, read_events, read_requests
from msd.feedback.gate import Check, Decision, Figures
from msd.feedback.impressions import Joined, join
from msd.feedback.judge import judge
from msd.feedback.outcomes import say_unjoined
from msd.feedback.scored_bundle import ScoredBundle
from msd.nightly.config import NightlyConfig, NightlyError
from msd.nightly.cost import noted
from msd.nightly.record import NightRecord, known_record
from msd.nightly.rollout import check_experiment, end_rollout, roll_out
from msd.nightly.stage import Stage
from msd.teachers.knowledge import RECORD_FILE

_JOINED, _HELD_OUT, _VERDICT = "joined.json", "impressions.parquet", "verdict.json"
_LARGE = ("dataset", "student", "model", "bundle")
_ADD_A_ROLLOUT = (
    "some checks are unknown, so that the old bundle stays: add a [rollout], which decides by revenue, or set"
    ' `unknown = "figures"` of [gate], which promotes some bundles that earn less'
)


class _Kept(Exception):
    """The old bundle stays, for the reasons in `args`."""


def _place_after(impressions: pl.DataFrame, at: float) -> int:
    """Return the number of impressions, sorted by time, up to a time (Unix s)."""
    return int(impressions["at"].search_sorted(at, "right"))


class Night:
    """A night's folder, its record so far, and the nights before it."""

    def __init__(self, config: NightlyConfig, name: str, console: Console) -> None:
        """Raises NightlyError if a record of a night is damaged."""
        self.config = config
        self.folder = config.work / "nights" / name
        self.known = known_record(self.folder)
        self.record = NightRecord(night=name, started_at=time.time(), bounds=config.bounds)
        optional = (
            config.semantics,
            config.teach is not None,
            config.redis is not None,
            config.corrections is not None,
        )
        self._steps = Steps(console, total=3 + sum(optional))
        found = [known_record(one) for one in sorted(self.folder.parent.glob("*")) if one != self.folder]
        self._others = sorted((one for one in found if one and one.status != "failed"), key=lambda one: one.until)

    def run(self) -> NightRecord:
        """Run the night to its end, and return its record. A finished night is not repeated, unless it kept the old
        bundle by other bounds."""
        if self.known and self.known.status != "failed" and not self._is_judged_anew(self.known):
            return self.known
        record = self.record
        try:
            self._run()
            record.status = "promoted"
        except _Kept as reasons:
            record.status, record.why = "kept", list(reasons.args)
        except Exception as error:
            record.status, record.why = "failed", [f"{type(error).__name__}: {error}"]
            if not isinstance(error, MsdError):
                self._steps.console.print(traceback.format_exc(), markup=False)
        record.seconds = round(time.time() - record.started_at, 1)
        # A disk without space for the record must not hide why the night ended.
        with suppress(OSError):
            record.write(self.folder)
        if record.is_accepted and record.status != "failed":
            self._prune()
        return record

    def _is_judged_anew(self, known: NightRecord) -> bool:
        """Return whether a night was decided by other bounds; if its bundle is still there, and was not served."""
        is_open = known.status == "kept" and known.verdict is not None and known.bounds != self.record.bounds
        return is_open and (self.folder / "bundle" / MANIFEST).is_file()

    def _run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # What would be found after hours of training.
        self._current()
        if self.config.rollout:
            check_experiment(self.config, self.record.night)
        with collected(self.config.logs, self.config.work / "logs") as logs:
            with noted(self.record.steps, "join"):
                self._join(logs)
            self._make()
            with noted(self.record.steps, "judge"):
                verdict = self.record.verdict = self._judge(logs)
            checks = [Check(**one) for one in verdict["checks"]]
            decision = self._decide(verdict["decision"], checks)
            if decision == "promote":
                self._correct(verdict)
                self._publish()
            self._recalibrate(logs)
        if decision == "keep":
            raise _Kept(*(str(one) for one in checks if not one.holds))
        self.record.why = [str(one) for one in checks]

    def _decide(self, decision: Decision, checks: Sequence[Check]) -> Decision:
        """Return whether to go on to publish. Where checks are unknown the rollout decides; without one, `unknown` of
        the gate says."""
        if decision != "unknown" or self.config.rollout:
            return "keep" if decision == "keep" else "promote"
        if self.config.gate.unknown == "keep":
            self.record.notes.append(_ADD_A_ROLLOUT)
            return "keep"
        self.record.notes.append("some checks are unknown, and there is no [rollout]: their figures decided")
        return "promote" if all(check.seems for check in checks) else "keep"

    def _join(self, logs: Sequence[Path]) -> None:
        """Write the dataset up to the cut, and the impressions after it; or find why there is nothing to train on."""
        record, mark, window = self.record, self.folder / _JOINED, self.config.window
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
        frame = self._without_refused(joined.frame)
        fresh = frame[_place_after(frame, record.began) :]
        refused = joined.frame.height - frame.height
        record.counts = {**joined.told, "impressions_of_refused_nights": refused, "new_impressions": fresh.height}
        if fresh.height < self.config.input.impressions:
            raise _Kept(f"{fresh.height} new impressions are fewer than {self.config.input.impressions}")
        record.until = float(fresh["at"][-1])
        record.cut = float(fresh["at"][int((1 - window.judge_share) * (fresh.height - 1))])
        self._check_unjoined(joined)
        self._check_click_rate(old, fresh, joined.ends_at)
        since = record.until - 86_400 * window.days
        cut = _place_after(frame, record.cut)
        write_dataset(frame[:cut], old, out, since=since, by_time=True)
        frame[cut:].lazy().sink_parquet(self.folder / _HELD_OUT)
        record.is_accepted = True
        write_text_atomic(mark, record.model_dump_json())

    def _without_refused(self, impressions: pl.DataFrame) -> pl.DataFrame:
        """Return impressions without those of refused nights: of their input, or because what they made earned less."""
        for one in self._others:
            if not one.is_accepted and one.until:
                start, end = (_place_after(impressions, at) for at in (one.began, one.until))
                self.record.left_out[one.night] = end - start
                impressions = pl.concat([impressions[:start], impressions[end:]], rechunk=False)
        return impressions

    def _check_unjoined(self, joined: Joined) -> None:
        """Refuse impressions whose clicks are lost: they would count as not clicked."""
        lost, clicks = joined.told["new_unjoined_clicks"], joined.told["new_clicks"]
        if lost > self.config.input.unjoined_clicks * clicks:
            self.record.until = max(self.record.until, joined.ends_at)  # with what has not settled yet
            raise _Kept(
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
            raise _Kept(
                f"the new impressions' click rate is {now:.4f}, that of the served bundle's dataset {then:.4f}: more"
                f" than a factor of {most:g}; they are left out of this and of later nights"
            )

    def _make(self) -> None:
        """Teach, distil, train and export."""
        config, call = self.config, self._call
        data, student, model, bundle = (self.folder / name for name in _LARGE)
        knowledge = self._taught(data)
        words = [knowledge] if knowledge else []
        if config.semantics:
            call("distill", "distill", data, *words, student)
        read, way = ([student], []) if config.semantics else ([], ["--no-semantics"])
        call("train", "train", data, *read, model, *way, *config.train)
        call("export", "export", data, *(words if config.semantics else []), *read, model, bundle, *config.export)

    def _taught(self, data: Path) -> Path | None:
        """Return the knowledge, extended by what is new; or, if the teacher fails, as it last was whole."""
        ours, whole = self.config.work / "knowledge", self.config.work / "knowledge.whole"
        first = self.config.knowledge
        if self.config.teach is None:
            return first
        if first and not ours.exists():
            shutil.copytree(first, ours)
        try:
            self._call("teach", "teach", data, ours, *self.config.teach)
        except DemoError as error:
            self.record.notes.append(f"went on without some or all new words of the teacher: {error}")
        # It is there if all questions were asked, even if some have no usable answer.
        if not (ours / RECORD_FILE).is_file():
            return whole if whole.is_dir() else first
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(ours, whole)
        return whole

    def _call(self, step: str, *arguments: str | Path) -> None:
        with noted(self.record.steps, step):
            self._steps.call(step, *arguments)

    def _judge(self, logs: Sequence[Path]) -> Figures:
        """Return the verdict on the new bundle, once for a gate: after it is published there is no old one to compare
        with."""
        config, mark = self.config, self.folder / _VERDICT
        new = ScoredBundle(self.folder / "bundle")
        manifest = new.bundle.manifest.sha256
        old = ScoredBundle(self._current(), read_corrections(config.corrections) if config.corrections else {})
        inputs = {"manifest": manifest, "gate": config.gate.model_dump()}
        if mark.is_file():
            known = json.loads(mark.read_bytes())
            verdict: Figures = known.pop("verdict")
            is_served = known["manifest"] == manifest == old.bundle.manifest.sha256
            if known == inputs or is_served:
                return verdict
        verdict = judge(
            old,
            new,
            read_requests(logs, JUDGE_COLUMNS),
            pl.scan_parquet(self.folder / _HELD_OUT),
            config.gate,
            since=self.record.cut,
        ).document()
        write_text_atomic(mark, json.dumps({**inputs, "verdict": verdict}))
        return verdict

    def _current(self) -> Path:
        """Return the folder of the served bundle. Raises NightlyError."""
        pointer = self.config.bundles / "current"
        if pointer.is_file():
            pointer = self.config.bundles / pointer.read_text("utf-8").strip()
        if not (pointer / MANIFEST).is_file():
            raise NightlyError(f"{pointer}: leads to no bundle to compare with; point it to the served one")
        return pointer.resolve()

    def _correct(self, verdict: Figures) -> None:
        """Let the new bundle start with the correction that the impressions say which judged it."""
        path, found = self.config.corrections, verdict.get("correction")
        if path is not None and found:
            known, bundle_id = read_corrections(path), verdict["models"]["new"]["bundle_id"]
            write_corrections(path, {bundle_id: LearnedCorrection(**found)} | known)

    def _publish(self) -> None:
        """Copy the bundle beside the others, roll it out, publish its rows, and move the pointer."""
        bundles, name = self.config.bundles, self.record.night
        new, place = self.folder / "bundle", bundles / name
        known = place / MANIFEST
        if not known.is_file() or known.read_bytes() != (new / MANIFEST).read_bytes():
            half = bundles / f".{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(new, half)
            shutil.rmtree(place, ignore_errors=True)
            half.rename(place)
        redis = ("--redis", self.config.redis) if self.config.redis else ()
        if self.config.rollout:
            if redis:
                self._call("publish beside", "publish", place, "--beside", *redis)
            self.record.rollout = roll_out(self.config, self.config.rollout, self.folder, name)
            last = self.record.rollout[-1]
            if last.decision != "grow":
                self._leave_out(last)
                failed = [str(check) for check in last.checks if not check.holds]
                raise _Kept(f"the rollout ended at {last.share:.0%} of the users", *failed)
        try:
            if redis:
                self._call("publish", "publish", place, *redis)
            self._call("point", "rollback", bundles, "--to", name)
        finally:
            if self.config.rollout:
                end_rollout(self.config)

    def _leave_out(self, last: Stage) -> None:
        """Refuse the night's impressions if the bundle that they made surely earned less: they say what is not so, as
        those of bots or of a fad that is over do."""
        if last.earns_less:
            self.record.is_accepted = False
            self.record.notes.append(
                "the new bundle surely earned less: later nights leave the impressions out that were new to it"
            )

    def _recalibrate(self, logs: Sequence[Path]) -> None:
        if self.config.corrections is None:
            return
        window = self.config.window
        hours = {
            "settle": window.settle_hours,
            "window": window.click_hours,
            "conversion-settle": window.conversion_settle_hours,
        }
        waiting = [f"--{name}-hours={value}" for name, value in hours.items()]
        try:
            self._call("recalibrate", "recalibrate", *logs, "--out", self.config.corrections, *waiting)
        except DemoError as error:
            self.record.notes.append(f"corrections stay as they were: {error}")

    def _prune(self) -> None:
        """Remove what other nights need no longer: the next one continues this dataset."""
        for other in self.folder.parent.glob("*"):
            for name in _LARGE if other != self.folder else ():
                shutil.rmtree(other / name, ignore_errors=True)
