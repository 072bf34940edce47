"""A folder's journal: all answers of its teachers by question, and unusable ones. Sends nothing.

answers.jsonl is append-only. A question whose line is removed from quarantine.jsonl is asked again.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from msd.contract.files import write_bytes_atomic
from msd.step import STEP_FILE
from msd.teachers.knowledge import KNOWLEDGE_FILES, RECORD_FILE, Knowledge, TeacherError, read_lines
from msd.teachers.teacher import Answered, Failed, Level, Question, Teacher

ANSWERS_FILE = "answers.jsonl"
QUARANTINE_FILE = "quarantine.jsonl"
_RAW_SHOWN = 4000
_FAULTS_SHOWN = 5


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[str, Field(min_length=1)]
    level: Level


class JournalEntry(_Line):
    """An answer as it was given, with its source and its day (UTC).

    Its ID is that of the first question; others may share the same text.
    """

    teacher: str
    prompt_version: str
    knowledge: Knowledge
    reasoning: str = ""
    read: int = 0
    written: int = 0
    model: str = ""
    sampling: dict[str, Any] = Field(default_factory=dict)
    day: str = ""


class Refusal(_Line):
    """A question without a usable answer. `raw`: the beginning of the last output; None if there was none.

    `repairable`: whether a repair question is still due, as after the first reply of a batch.
    """

    id: str
    raw: str | None
    reason: str
    repairable: bool = False


def key_of(teacher: Teacher, question: Question) -> str:
    """Return an answer's key: a hash of teacher, wording and question."""
    parts = [teacher.name, teacher.prompt_version, question.level, teacher.input_of(question)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def claim(folder: Path) -> None:
    """Create the folder if it is missing. Raises TeacherError if it is a file, or has content of unknown origin."""
    if folder.exists() and not folder.is_dir():
        raise TeacherError(f"{folder} is a file; name a folder for the answers")
    folder.mkdir(parents=True, exist_ok=True)
    found = [name for name in (*KNOWLEDGE_FILES, RECORD_FILE, STEP_FILE) if (folder / name).exists()]
    if found and not (folder / ANSWERS_FILE).is_file():
        raise TeacherError(f"{folder} holds {', '.join(found)} of unknown origin; name another folder")


class Journal:
    """A folder's two files. `with` opens them for writing, by one process at a time; otherwise they are only read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.answers: dict[str, JournalEntry] = {}
        self.refusals: list[Refusal] = []
        self._refused: set[str] = set()
        self.repairs: dict[str, Refusal] = {}
        self._read()

    def settled(self, key: str) -> bool:
        """Return whether asking is useless: there is an answer, or an unusable one."""
        return key in self.answers or key in self._refused

    def keep(self, key: str, teacher: Teacher, reply: Answered) -> None:
        """Append an answer, flushed to the operating system."""
        entry = JournalEntry(
            key=key,
            level=reply.question.level,
            teacher=teacher.name,
            prompt_version=teacher.prompt_version,
            knowledge=reply.knowledge,
            reasoning=reply.reasoning,
            read=reply.usage.read,
            written=reply.usage.written,
            model=reply.source.model,
            sampling=dict(reply.source.sampling),
            day=datetime.now(UTC).date().isoformat(),
        )
        assert self._file
        self._file.write(_bytes_of(entry))
        self.answers[key] = entry

    def refuse(self, key: str, reply: Failed, questions: list[Question]) -> None:
        """Quarantine a question, and those with the same text."""
        raw = None if reply.raw is None else reply.raw[:_RAW_SHOWN]
        lines = [
            Refusal(
                key=key, level=question.level, id=question.id, raw=raw, reason=reply.reason, repairable=reply.repairable
            )
            for question in questions
        ]
        with (self._folder / QUARANTINE_FILE).open("ab", buffering=0) as file:
            file.write(b"".join(map(_bytes_of, lines)))
        self.refusals += lines
        self._note(lines)

    def __enter__(self) -> Self:
        self._file = (self._folder / ANSWERS_FILE).open("ab", buffering=0)
        try:
            _lock(self._file, self._folder)
            self._read()
            _cut_off_half_line(self._folder / ANSWERS_FILE)
            self._leave_answered_refusals()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _read(self) -> None:
        self.answers = {entry.key: entry for entry in _lines(self._folder / ANSWERS_FILE, JournalEntry)}
        self.refusals = [
            line
            for line in _lines(self._folder / QUARANTINE_FILE, Refusal)
            if line.raw is not None and line.key not in self.answers
        ]
        self._refused, self.repairs = set(), {}
        self._note(self.refusals)

    def _note(self, refusals: Iterable[Refusal]) -> None:
        """Note refusals: an unusable answer settles its question, unless the last one leaves a repair due."""
        for refusal in refusals:
            if refusal.raw is None:
                continue
            if refusal.repairable:
                self.repairs[refusal.key] = refusal
            else:
                self._refused.add(refusal.key)
                self.repairs.pop(refusal.key, None)

    def _leave_answered_refusals(self) -> None:
        """Remove questions from quarantine that were answered since, or that had no answer at all and are asked
        again."""
        path = self._folder / QUARANTINE_FILE
        if not path.is_file():
            return
        content = b"".join(map(_bytes_of, self.refusals))
        if not content:
            path.unlink()
        elif content != path.read_bytes():
            write_bytes_atomic(path, content)


_AnyLine = TypeVar("_AnyLine", bound=_Line)


def _lines(path: Path, kind: type[_AnyLine]) -> list[_AnyLine]:
    """Return the complete lines of a file; an unfinished last line of an interrupted run is skipped."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TeacherError(f"{path} cannot be read: {error.strerror}") from None
    lines = list(read_lines(content[: content.rfind(b"\n") + 1], str(path), kind))
    if faults := [f"{line}; mend or remove the line" for line in lines if isinstance(line, str)]:
        raise TeacherError("\n".join(faults[:_FAULTS_SHOWN]))
    return [line for line in lines if not isinstance(line, str)]


def _bytes_of(line: _Line) -> bytes:
    return line.model_dump_json().encode() + b"\n"


def _cut_off_half_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _lock(file: BinaryIO, folder: Path) -> None:
    """Lock the file: two concurrent runs would pay twice. The lock ends with the process, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TeacherError(f"another `msd teach` is writing to {folder}; wait for it, or name another folder") from None
