"""Questions and answers as files of providers' batch interfaces and of vLLM's `run_batch`: one chat completion per
line. Sends nothing.

OUT/batches/001.jsonl and so on have requests that wait for results; 001.returned.jsonl those whose results were read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

from msd.contract.files import write_bytes_atomic
from msd.dataset.load import Dataset
from msd.teachers.allowance import Budget
from msd.teachers.collect import Finder, Progress, finder_of, group_by_key
from msd.teachers.completion import BadCompletion, read_completion
from msd.teachers.dialogue import Dialogue
from msd.teachers.journal import Journal, claim, key_of
from msd.teachers.knowledge import TeacherError
from msd.teachers.openai_compatible import OpenAICompatibleTeacher
from msd.teachers.prompts import Example
from msd.teachers.seeds import Seeding
from msd.teachers.share import Share
from msd.teachers.teacher import AnswerSource, Prices, Question, Reply, Teacher, Usage, questions_of

BATCHES_FOLDER = "batches"
_URL = "/v1/chat/completions"
_OPEN = re.compile(r"[0-9]{3,}\.jsonl")
# Providers accept 50,000 requests and 200 MB per file.
_MOST_REQUESTS, _MOST_BYTES = 50_000, 100_000_000
_LONGEST_LINE = 4_000_000
_SHOWN = 200


@dataclass(frozen=True)
class WrittenBatches:
    """Output of a run: files and requests written, requests that already wait for results, and those over budget."""

    files: list[Path]
    requests: int
    waiting: int
    over_budget: int


def write_batches(
    dataset: Dataset,
    teacher: Teacher,
    folder: Path,
    progress: Progress,
    seeding: Seeding | None,
    share: Share,
    budget: Budget,
    prices: Prices,
) -> WrittenBatches:
    """Write the requests for all questions that are neither settled nor waiting for results.

    If a question's first answer was wrong, its repair question is written. Each request counts against the budget with
    its maximum cost. If the folder has no seeds, they are asked for directly.
    """
    claim(folder)
    with Journal(folder) as journal:
        levels = questions_of(dataset)
        finder = finder_of(teacher, seeding, journal, folder, levels, progress)
        return _write(finder, folder, share.of_levels(levels), budget, prices)


def _write(
    finder: Finder, folder: Path, levels: Sequence[Sequence[Question]], budget: Budget, prices: Prices
) -> WrittenBatches:
    teacher = finder.teacher
    assert isinstance(teacher, OpenAICompatibleTeacher)
    waiting = {id_ for path in _open_files(folder) for id_ in _ids_of(path)}
    asked = [one for questions in levels for one in questions if finder.seed(one) is None]
    counts: Counter[str] = Counter()

    def requests() -> Iterator[bytes]:
        cost = 0.0
        for key, (question, *_) in group_by_key(teacher, asked).items():
            if finder.journal.settled(key):
                continue
            dialogue = _begun(question, key, teacher, finder.journal)
            id_ = f"{_name(question, key)}-{dialogue.turn}"
            body = teacher.body(dialogue.due or [])
            most = prices.cost(teacher.most(body))
            if id_ not in waiting and not budget.affords(cost + most):
                counts["over budget"] += 1
                continue
            cost += most
            if id_ in waiting:
                counts["waiting"] += 1
                continue
            counts["written"] += 1
            request = {"custom_id": id_, "method": "POST", "url": _URL, "body": body}
            yield json.dumps(request, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    files = list(_written(folder, requests()))
    return WrittenBatches(files, counts["written"], counts["waiting"], counts["over budget"])


class BatchResults:
    """A teacher whose answers are in result files. Questions without a result stay open."""

    def __init__(self, teacher: Teacher, folder: Path, files: Sequence[Path]) -> None:
        assert isinstance(teacher, OpenAICompatibleTeacher)
        self._teacher, self._folder, self._files = teacher, folder, files
        self._seen: set[str] = set()
        self._faults: dict[str, str] = {}
        for path in files:
            if not path.is_file():
                raise TeacherError(f"--batch-in {path}: there is no such file")

    @property
    def name(self) -> str:
        """The model's name."""
        return self._teacher.name

    @property
    def prompt_version(self) -> str:
        """Version of the wording and the examples."""
        return self._teacher.prompt_version

    @property
    def prompt_sha256(self) -> str:
        """Hash of the wording and the examples."""
        return self._teacher.prompt_sha256

    @property
    def provenance(self) -> str:
        """Origin of the answers."""
        return self._teacher.provenance

    def steered(self, examples: tuple[Example, ...]) -> Self:
        """Return the same results, read as answers to questions with examples."""
        self._teacher = self._teacher.steered(examples)
        return self

    def input_of(self, question: Question) -> str:
        """Return the question's text; its ID is not shown."""
        return self._teacher.input_of(question)

    def estimate(self, question: Question) -> Usage:
        """Return zero: nothing is asked any more."""
        return Usage()

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies in the files' order; the first reply to a question counts."""
        journal = Journal(self._folder)
        keys = {key_of(self._teacher, one): one for one in questions}
        due = {_name(one, key): (one, key) for key, one in keys.items()}
        levels = {one.level for one in questions}
        for place, line in self._lines():
            found = self._read(place, line)
            if found is None:
                continue
            id_, completion = found
            name, _, turn = id_.rpartition("-")
            if name.partition("-")[0] not in levels:
                continue
            self._seen.add(id_)
            if completion is None or name not in due:
                continue
            question, key = due[name]
            dialogue = _begun(question, key, self._teacher, journal)
            if turn != str(dialogue.turn):
                continue
            try:
                said = read_completion(completion, dialogue.due or [])
            except BadCompletion as error:
                self._faults[place] = str(error)
                continue
            dialogue.hear(said.text, said.usage, AnswerSource(said.model, self._teacher.sampling))
            del due[name]
            yield dialogue.reply

    def put_away(self) -> list[str]:
        """Rename the request files whose results were read, and return the faults of unusable results."""
        for path in _open_files(self._folder):
            if not self._seen.isdisjoint(_ids_of(path)):
                path.rename(path.with_suffix(".returned.jsonl"))
        shown = [f"{place}: {fault}" for place, fault in islice(self._faults.items(), 5)]
        return [*shown, f"… and {len(self._faults) - 5} more"] if len(self._faults) > 5 else shown

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        for path in self._files:
            with path.open("rb") as file:
                for number, line in enumerate(_bounded(file), start=1):
                    if line.strip():
                        yield f"{path}, line {number}", line

    def _read(self, place: str, line: bytes) -> tuple[str, object | None] | None:
        """Return custom_id and completion of a line; no completion if the request failed; None for an invalid line."""
        try:
            result: Any = json.loads(line) if len(line) <= _LONGEST_LINE else None
            id_, response = result["custom_id"], result.get("response")
            error = result.get("error")
            status = response.get("status_code", 200) if response else None
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            self._faults[place] = "is not a result of a batch, one JSON object with custom_id, response and error"
            return None
        if not isinstance(id_, str):
            self._faults[place] = "its custom_id is not a string"
            return None
        if error or status != 200:
            told = json.dumps(error or (response or {}).get("body"), ensure_ascii=False)[:_SHOWN]
            self._faults[place] = f"the request failed ({status or 'not sent'}): {told}"
            return id_, None
        return id_, response.get("body")


def _name(question: Question, key: str) -> str:
    """Return a question's name in a custom_id, which some providers limit to 64 characters."""
    return f"{question.level}-{key[:40]}"


def _begun(question: Question, key: str, teacher: OpenAICompatibleTeacher, journal: Journal) -> Dialogue:
    """Return the question's dialogue, after its first answer if a repair is due."""
    dialogue = Dialogue(question, teacher.prompt)
    if refusal := journal.repairs.get(key):
        dialogue.hear(refusal.raw or "", Usage(), AnswerSource())
    return dialogue


def _open_files(folder: Path) -> list[Path]:
    inside = folder / BATCHES_FOLDER
    return sorted(path for path in inside.iterdir() if _OPEN.fullmatch(path.name)) if inside.is_dir() else []


def _ids_of(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield str(json.loads(line)["custom_id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TeacherError(f"{path} is damaged: {error}; remove it, and its requests are written again") from None


def _written(folder: Path, lines: Iterable[bytes]) -> Iterator[Path]:
    """Write the lines to files, and yield their paths."""
    inside = folder / BATCHES_FOLDER
    inside.mkdir(exist_ok=True)
    number = max((int(path.name.split(".")[0]) for path in inside.glob("[0-9]*.jsonl")), default=0)
    for content in _cut(lines):
        number += 1
        path = inside / f"{number:03}.jsonl"
        write_bytes_atomic(path, content)
        yield path


def _cut(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines in portions that providers accept."""
    portion: list[bytes] = []
    size = 0
    for line in lines:
        if portion and (len(portion) == _MOST_REQUESTS or size + len(line) > _MOST_BYTES):
            yield b"".join(portion)
            portion, size = [], 0
        portion.append(line)
        size += len(line)
    if portion:
        yield b"".join(portion)


def _bounded(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines, each cut off at one byte above the limit."""
    while line := file.readline(_LONGEST_LINE + 1):
        yield line
        while not line.endswith(b"\n") and line:
            line = file.readline(_LONGEST_LINE)
