"""A teacher's knowledge of items and users, and the folder with it. Sends nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd.contract.errors import MsdError, faults_of
from msd.step import read_record

RECORD_FILE = "teach.json"
KNOWLEDGE_FILES = ("items.jsonl", "users.jsonl")
_SHOWN = 20
Line = TypeVar("Line", bound=BaseModel)

Text = Annotated[str, Field(min_length=1)]


class TeacherError(MsdError):
    """Knowledge is missing, damaged, or does not fit the dataset."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Knowledge(_Frozen):
    """A teacher's knowledge of one item or user: facts (`explicit`), and who would want it and why (`implicit`), which
    is empty if only facts were written.

    `known`: false if the teacher did not recognise the item, so that the rest is inferred from its text alone.
    """

    id: Annotated[str, Field(min_length=1, max_length=256)]
    known: bool = True
    explicit: Text
    implicit: str
    tags: tuple[Text, ...] = ()


class TeachRecord(_Frozen):
    """teach.json, written after the last answer: teacher, dataset and counts.

    `models`, `sampling`, `first_day`, `last_day` (UTC): of its answers, as far as noted. `prompt_sha256`: of all words
    sent with a question's text.
    """

    format: Literal[1] = 1
    teacher: Text
    prompt_version: Text
    dataset: Text
    items: Annotated[int, Field(ge=0)]
    users: Annotated[int, Field(ge=0)]
    provenance: str = ""
    models: tuple[str, ...] = ()
    sampling: tuple[dict[str, Any], ...] = ()
    first_day: str = ""
    last_day: str = ""
    prompt_sha256: str = ""


@dataclass(frozen=True)
class KnowledgeBase:
    """Knowledge by item ID and by user ID. A user's may be used only for events after the profile window."""

    items: dict[str, Knowledge]
    users: dict[str, Knowledge]


def load_knowledge(folder: Path, dataset: str | None = None) -> KnowledgeBase:
    """Read a finished knowledge folder. Raises TeacherError naming every faulty file and line, or the folder's dataset
    if it is not the given one."""
    record = load_record(folder)
    if dataset is not None and record.dataset != dataset:
        raise TeacherError(
            f"{folder / RECORD_FILE}: is about the dataset {record.dataset!r}, not {dataset!r}; run `msd teach` for"
            " that one, or, where the words are its own, write its name there"
        )
    problems: list[str] = []
    items, users = (_read_file(folder / name, problems) for name in KNOWLEDGE_FILES)
    for name, found, due in zip(KNOWLEDGE_FILES, (items, users), (record.items, record.users), strict=True):
        if len(found) != due and not problems:
            problems.append(f"{folder / name}: holds {len(found)} answers where {RECORD_FILE} counts {due}")
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise TeacherError("\n".join([*problems[:_SHOWN], *more]))
    return KnowledgeBase(items, users)


def load_record(folder: Path) -> TeachRecord:
    """Read teach.json. Raises TeacherError if it is invalid, or missing: the teacher has then not finished."""
    hint = "`msd teach` has not finished there; run it again" if folder.is_dir() else "there is no such folder"
    absent = f"{RECORD_FILE} is missing: {hint}"
    return read_record(folder / RECORD_FILE, TeachRecord, absent, "run `msd teach` again", TeacherError)


def read_lines(content: bytes, name: str, kind: type[Line]) -> Iterator[Line | str]:
    """Yield the record of each line, or its fault: "`name`, line 3: …". Blank lines are skipped."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            yield f"{name}, line {number}: {describe(error)}"


def describe(error: ValidationError) -> str:
    """Return a validation error in one line, with the keys at fault."""
    return "; ".join(map(str, faults_of(error)))


def by_id(lines: Iterator[Knowledge | str], name: str, problems: list[str]) -> dict[str, Knowledge]:
    """Return knowledge by ID; faults of lines, and duplicate IDs, are added to `problems`."""
    found: dict[str, Knowledge] = {}
    for line in lines:
        if isinstance(line, str):
            problems.append(line)
        elif line.id in found:
            problems.append(f"{name}: the id {line.id!r} has two answers")
        else:
            found[line.id] = line
    return found


def _read_file(path: Path, problems: list[str]) -> dict[str, Knowledge]:
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return {}
    return by_id(read_lines(content, str(path), Knowledge), str(path), problems)
