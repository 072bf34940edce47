"""Makes a night's bundle of its dataset, by running the commands."""

import shutil
from collections.abc import Callable
from pathlib import Path

from msd.demo.service import DemoError
from msd.nightly.config import NightlyConfig
from msd.nightly.record import NightRecord
from msd.student.record import STUDENT_FOLDER
from msd.teachers.knowledge import RECORD_FILE

LARGE = ("dataset", "student", "model", "bundle")
"""Folders that are removed once a later night is accepted."""


class BundleMaker:
    """Teaches, distils, trains and exports in a night's `folder`. `call` runs a command as a step of the night."""

    def __init__(self, config: NightlyConfig, folder: Path, record: NightRecord, call: Callable[..., None]) -> None:
        self.config, self.folder, self.record, self._call = config, folder, record, call

    def make(self) -> None:
        """Run all of it. Raises DemoError."""
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
