"""Seed answers: a strong model answers a few questions, and its answers are shown to the bulk teacher.

seeds.jsonl stores them: if the dataset changes, its seeds stay, and with them all other answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.files import write_bytes_atomic
from msd.teachers.knowledge import Knowledge, TeacherError, describe
from msd.teachers.prompts import Example
from msd.teachers.teacher import Level, Question, Teacher, digest_of

SEEDS_FILE = "seeds.jsonl"


@dataclass(frozen=True)
class Seeding:
    """The seed teacher, the number of seeds per level, and how to make a teacher that is shown them."""

    teacher: Teacher
    number: int
    steer: Callable[[tuple[Example, ...]], Teacher]


class _Seed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    teacher: str
    prompt_version: str
    level: Level
    text: str
    reasoning: str
    knowledge: Knowledge


def choose(questions: Sequence[Question], number: int) -> list[Question]:
    """Return a sample of questions with different texts; the same for the same questions in any order."""
    by_text = {question.text: question for question in questions}
    return sorted(by_text.values(), key=digest_of)[:number]


def load_seeds(folder: Path, teacher: Teacher) -> tuple[Example, ...] | None:
    """Return the seeds of a folder; None if it has none. Raises TeacherError if they are another teacher's, or
    damaged."""
    path = folder / SEEDS_FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TeacherError(f"{path} cannot be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            seed = _Seed.model_validate_json(line)
        except ValidationError as error:
            raise TeacherError(f"{path}, line {number}: {describe(error)}") from None
        if (seed.teacher, seed.prompt_version) != (teacher.name, teacher.prompt_version):
            raise TeacherError(
                f"{path} holds seeds by {seed.teacher} (prompt {seed.prompt_version}), not by {teacher.name} (prompt "
                f"{teacher.prompt_version}); name that teacher, or remove the file to ask everything anew"
            )
        found.append(Example(seed.level, seed.text, seed.reasoning, seed.knowledge))
    return tuple(found)


def refuse_seeds(folder: Path) -> None:
    """Raise TeacherError if the folder has seeds: without them all questions would differ, and be paid for again."""
    if (folder / SEEDS_FILE).is_file():
        raise TeacherError(
            f"the answers in {folder} are steered by {SEEDS_FILE}: give --seeds and --seed-teacher as before, or "
            "remove that file to ask everything without seeds"
        )


def save_seeds(folder: Path, teacher: Teacher, examples: Sequence[Example]) -> None:
    """Write the file that `load_seeds` reads."""
    lines = [
        _Seed(
            teacher=teacher.name,
            prompt_version=teacher.prompt_version,
            level=one.level,
            text=one.text,
            reasoning=one.reasoning,
            knowledge=one.knowledge,
        ).model_dump_json()
        for one in examples
    ]
    write_bytes_atomic(folder / SEEDS_FILE, "".join(f"{line}\n" for line in lines).encode())
