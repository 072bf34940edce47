"""One night: logs to data, data to a bundle, the verdict, and its consequence. Each step is done once, so that an
interrupted night resumes where it ended; the served bundle changes only in the last.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console

from msd.contract.bundle import MANIFEST
from msd.contract.correction import LearnedCorrection, read_corrections, write_corrections
from msd.contract.files import write_text_atomic
from msd.demo.service import DemoError
from msd.demo.steps import Steps
from msd.feedback.collect import collected
from msd.feedback.files import JUDGE_COLUMNS, read_requests
from msd.feedback.gate import REVISION, Check, Decision, Figures
from msd.feedback.judge import judge
from msd.feedback.scored_bundle import ScoredBundle
from msd.nightly.config import NightlyConfig
from msd.nightly.cost import noted
from msd.nightly.intake import HELD_OUT, Intake
from msd.nightly.record import Kept, NightRecord, known_record
from msd.nightly.rollout import check_experiment, end_rollout, roll_out
from msd.nightly.served import NIGHTS, Served, finished_nights, place_bundle, prune_refreshes
from msd.nightly.stage import Stage
from msd.student.record import STUDENT_FOLDER
from msd.teachers.knowledge import RECORD_FILE

LARGE = ("dataset", "student", "model", "bundle")
"""Folders of a night that are removed once a later night is accepted."""
_VERDICT = "verdict.json"
_ADD_A_ROLLOUT = (
    "some checks are unknown, so that the old bundle stays: add a [rollout], which decides by revenue, or set"
    ' `unknown = "figures"` of [gate], which promotes some bundles that earn less'
)


class Night:
    """A night's folder, its record so far, and the nights before it."""

    def __init__(self, config: NightlyConfig, name: str, console: Console) -> None:
        """Raises NightlyError if a record of a night is damaged."""
        self.config = config
        self.folder = config.work / NIGHTS / name
        self.known = known_record(self.folder, NightRecord)
        self.record = NightRecord(night=name, started_at=time.time(), bounds=config.bounds)
        optional = (
            config.semantics,
            config.teach is not None,
            config.redis is not None,
            config.corrections is not None,
        )
        self._steps = Steps(console, total=3 + sum(optional))
        self._others = finished_nights(config, but=self.folder)

    def run(self) -> NightRecord:
        """Run the night to its end, and return its record. A finished night is not repeated, unless it kept the old
        bundle by other bounds."""
        if self.known and self.known.status != "failed" and not self._is_judged_anew(self.known):
            return self.known
        self.record.keep(self._run, self.folder, self._steps.console)
        if self.record.is_accepted and self.record.status != "failed":
            self._prune()
        return self.record

    def _is_judged_anew(self, known: NightRecord) -> bool:
        """Return whether a night was decided by other bounds; if its bundle is still there, and was not served."""
        is_open = known.status == "kept" and known.verdict is not None and known.bounds != self.record.bounds
        return is_open and (self.folder / "bundle" / MANIFEST).is_file()

    def _run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # What would be found after hours of training.
        Served.of(self.config)
        if self.config.rollout:
            check_experiment(self.config, self.record.night)
        with collected(self.config.logs, self.config.work / "logs") as logs:
            with noted(self.record.steps, "join"):
                Intake(self.config, self.folder, self.record, self._others).join(logs)
            self._make_bundle()
            with noted(self.record.steps, "judge"):
                verdict = self.record.verdict = self._judge(logs)
            checks = [Check(**one) for one in verdict["checks"]]
            decision = self._decide(verdict["decision"], checks)
            if decision == "promote":
                self._correct(verdict)
                self._publish()
            self._recalibrate(logs)
        if decision == "keep":
            raise Kept(*(str(one) for one in checks if not one.holds))
        self.record.why = [str(one) for one in checks]

    def _make_bundle(self) -> None:
        """Teach, distil, train and export the night's dataset. Raises DemoError."""
        config, call = self.config, self._call
        data, student, model, bundle = (self.folder / name for name in LARGE)
        knowledge = self._taught(data)
        words = [knowledge] if knowledge else []
        if config.semantics:
            call("distill", "distill", data, *words, student)
        read, way = ([student], []) if config.semantics else ([], ["--no-semantics"])
        call("train", "train", data, *read, model, *way, *config.train)
        if (tuned := model / STUDENT_FOLDER).is_dir():
            read = [tuned]
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

    def _call(self, step: str, *arguments: str | Path) -> None:
        with noted(self.record.steps, step):
            self._steps.call(step, *arguments)

    def _judge(self, logs: Sequence[Path]) -> Figures:
        """Return the verdict on the new bundle, once for a gate: after it is published there is no old one to compare
        with."""
        config, mark = self.config, self.folder / _VERDICT
        new = ScoredBundle(self.folder / "bundle")
        manifest = new.bundle.manifest.sha256
        served = Served.of(config)
        corrections = read_corrections(config.corrections) if config.corrections else {}
        # A refresh has seen the latest impressions, and so will those of the new bundle.
        old = ScoredBundle(served.trained, corrections, served.refreshed)
        inputs = {"manifest": manifest, "revision": REVISION, "gate": config.gate.model_dump()}
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
            pl.scan_parquet(self.folder / HELD_OUT),
            config.gate,
            since=self.record.cut,
        ).document()
        write_text_atomic(mark, json.dumps({**inputs, "verdict": verdict}))
        return verdict

    def _correct(self, verdict: Figures) -> None:
        """Let the new bundle start with the correction that the impressions say which judged it."""
        path, found = self.config.corrections, verdict.get("correction")
        if path is not None and found:
            known, bundle_id = read_corrections(path), verdict["models"]["new"]["bundle_id"]
            write_corrections(path, {bundle_id: LearnedCorrection(**found)} | known)

    def _publish(self) -> None:
        """Copy the bundle beside the others, roll it out, publish its rows, and move the pointer."""
        bundles, name = self.config.bundles, self.record.night
        place = place_bundle(self.config, self.folder / "bundle", name)
        redis = ("--redis", self.config.redis) if self.config.redis else ()
        if self.config.rollout:
            if redis:
                self._call("publish beside", "publish", place, "--beside", *redis)
            self.record.rollout = roll_out(self.config, self.config.rollout, self.folder, name)
            last = self.record.rollout[-1]
            if last.decision != "grow":
                self._leave_out(last)
                failed = [str(check) for check in last.checks if not check.holds]
                raise Kept(f"the rollout ended at {last.share:.0%} of the users", *failed)
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
        """Remove what is needed no longer: the next night continues this dataset, and refreshes the served model."""
        served = Served.of(self.config)
        kept = [self.folder / name for name in LARGE]
        if served.night:
            kept += [self.folder.with_name(served.night.night) / name for name in ("student", "model")]
        for one in (other / name for other in self.folder.parent.glob("*") for name in LARGE):
            if one not in kept:
                shutil.rmtree(one, ignore_errors=True)
        prune_refreshes(self.config, whole=served.is_trained)
