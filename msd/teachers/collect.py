"""Asks a teacher about a whole dataset, and keeps each answer as it comes: what is answered is never asked again."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msd.contract.files import write_text_atomic
from msd.dataset.load import Dataset
from msd.teachers.knowledge import (
    KNOWLEDGE_FILES,
    RECORD_FILE,
    Knowledge,
    TeacherError,
    TeachRecord,
    by_id,
    load_knowledge,
    load_record,
    read_lines,
)
from msd.teachers.teacher import Question, Teacher, questions_of

_STEP_FILE = "step.json"


def collect_knowledge(
    dataset: Dataset, teacher: Teacher, folder: Path, progress: Callable[[str, int, int], None]
) -> TeachRecord:
    """Fills `folder` with the answers and, last, teach.json; goes on where an earlier run ended.

    progress: called with a file's name, how many answers it holds, and how many it will hold.
    Raises TeacherError if the folder holds answers to other questions, or if the teacher fails.
    """
    start = time.perf_counter()
    levels = questions_of(dataset)
    fingerprint = _fingerprint(levels, teacher)
    if _claim(folder, fingerprint) and (folder / RECORD_FILE).is_file():
        load_knowledge(folder)
        return load_record(folder)
    counts = [
        _ask(teacher, questions, folder / name, progress)
        for name, questions in zip(KNOWLEDGE_FILES, levels, strict=True)
    ]
    record = TeachRecord(
        teacher=teacher.name,
        prompt_version=teacher.prompt_version,
        dataset=dataset.config.name,
        items=counts[0],
        users=counts[1],
        provenance=teacher.provenance,
    )
    _write_step(folder, fingerprint, time.perf_counter() - start)
    write_text_atomic(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    return record


def _fingerprint(levels: Sequence[Sequence[Question]], teacher: Teacher) -> str:
    """Of all that the answers depend on: changing other things of a dataset need not be paid for with new answers."""
    asked = [[question.level, question.id, question.text] for questions in levels for question in questions]
    return hashlib.sha256(json.dumps([teacher.name, teacher.prompt_version, asked]).encode()).hexdigest()


def _claim(folder: Path, fingerprint: str) -> bool:
    """Marks the folder as the place of these answers; True if an earlier run has done so."""
    step = folder / _STEP_FILE
    if folder.exists() and not folder.is_dir():
        raise TeacherError(f"{folder} is a file; name a folder for the answers")
    if not step.is_file():
        if found := [name for name in (*KNOWLEDGE_FILES, RECORD_FILE) if (folder / name).exists()]:
            raise TeacherError(f"{folder} holds {', '.join(found)} of unknown origin; name another folder")
        _write_step(folder, fingerprint, None)
        return False
    try:
        known = json.loads(step.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise TeacherError(f"{step} is damaged; name another folder, or remove this one") from None
    if known != fingerprint:
        raise TeacherError(
            f"{folder} holds answers of another teacher or to other questions (the dataset has changed since); "
            "name another folder, or remove this one"
        )
    return True


def _write_step(folder: Path, fingerprint: str, seconds: float | None) -> None:
    step = {"fingerprint": fingerprint, "seconds": None if seconds is None else round(seconds, 3)}
    write_text_atomic(folder / _STEP_FILE, json.dumps(step) + "\n")


def _ask(teacher: Teacher, questions: Sequence[Question], path: Path, progress: Callable[[str, int, int], None]) -> int:
    """Appends the answers that are still due, a line each; returns how many there are then."""
    done = _answered(path)
    due = [question for question in questions if question.id not in done]
    progress(path.name, len(done), len(questions))
    asked = {question.id for question in due}
    with path.open("ab", buffering=0) as file:
        for answer in teacher.answer(due) if due else ():
            if answer.id not in asked:
                raise TeacherError(f"{teacher.name} answered for {answer.id!r}, which was not asked, or not once only")
            asked.remove(answer.id)
            file.write(answer.model_dump_json().encode() + b"\n")
            progress(path.name, len(questions) - len(asked), len(questions))
    if asked:
        raise TeacherError(f"{teacher.name} left {len(asked)} questions for {path.name} open; run `msd teach` again")
    return len(questions)


def _answered(path: Path) -> dict[str, Knowledge]:
    """The answers kept so far. A last line that an interrupted run left unfinished is cut off."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    problems: list[str] = []
    answers = by_id(read_lines(whole, str(path)), str(path), problems)
    if problems:
        raise TeacherError("\n".join(problems[:5]))
    return answers
