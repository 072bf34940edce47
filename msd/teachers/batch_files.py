"""Questions and answers as files of providers' batch interfaces and of vLLM's `run_batch`: one chat completion per
line. Sends nothing.

OUT/batches/001.jsonl and so on have the requests. Their results belong in 001.results.jsonl, or 001.results-2.jsonl;
once read, these end in .read. A request without results is waiting, and is not written again.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from msd.contract.files import write_bytes_atomic
from msd.teachers.answer import Dialogue
from msd.teachers.budget import Budget
from msd.teachers.completion import BadCompletion, read_completion
from msd.teachers.journal import Journal, key_of
from msd.teachers.knowledge import TeacherError
from msd.teachers.openai_compatible import OpenAICompatibleTeacher
from msd.teachers.teacher import Answered, AnswerSource, ModelServer, Question, Reply

_URL = "/v1/chat/completions"
_REQUESTS = re.compile(r"[0-9]{3,}\.jsonl")
# Providers accept 50,000 requests and 200 MB per file.
_MOST_REQUESTS, _MOST_BYTES = 50_000, 100_000_000
_LONGEST_LINE = 4_000_000
_SHOWN = 200


class BatchTeacher(OpenAICompatibleTeacher):
    """A server whose answers are in result files. Questions that are still open are written as requests.

    A question whose first answer was wrong gets its repair question. Each request, written or waiting, counts against
    the budget with its maximum cost.
    """

    def __init__(self, server: ModelServer, budget: Budget, folder: Path) -> None:
        super().__init__(server, {}, budget)
        self._out, self._folder = folder, folder / "batches"
        self._results = sorted(self._folder.glob("[0-9]*.results*.jsonl"))
        self._cost = 0.0
        self.faults: dict[str, str] = {}
        self.files: list[Path] = []
        self.written = self.waiting = self.over_budget = 0

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies in the files' order, the first for each question; then write the requests that are due."""
        repairs = Journal(self._out).repairs
        dialogues = {}
        for question in questions:
            key = key_of(self, question)
            first = repairs[key].raw if key in repairs else None
            # Some providers limit a custom_id to 64 characters.
            dialogues[f"{question.level}-{key[:40]}"] = Dialogue(question, first)
        unread = set(dialogues)
        for place, line in self._lines():
            name, dialogue, completion = self._find(place, line, dialogues)
            if dialogue is None or completion is None or name not in unread:
                continue
            try:
                said = read_completion(completion, dialogue.due or [])
            except BadCompletion as error:
                self.faults[place] = str(error)
                continue
            dialogue.hear(said.text, said.usage, AnswerSource(said.model, self.options.sampling()))
            unread.remove(name)
            reply = dialogue.reply
            if isinstance(reply, Answered) or not reply.repairable:
                del dialogues[name]
            yield reply
        self.files += self._write(self._requests(dialogues))

    def put_away(self) -> None:
        """Rename the result files that were read."""
        for path in self._results:
            path.rename(path.with_name(f"{path.name}.read"))

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        for path in self._results:
            with path.open("rb") as file:
                for number, line in enumerate(_bounded(file), start=1):
                    if line.strip():
                        yield f"{path}, line {number}", line

    def _find(
        self, place: str, line: bytes, dialogues: Mapping[str, Dialogue]
    ) -> tuple[str, Dialogue | None, object | None]:
        """Return a line's question, its dialogue if this is its turn, and the completion if the request succeeded."""
        try:
            result: Any = json.loads(line) if len(line) <= _LONGEST_LINE else None
            name, _, turn = result["custom_id"].rpartition("-")
            response, error = result.get("response"), result.get("error")
            status = response.get("status_code", 200) if response else None
            body = response.get("body") if response else None
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            self.faults[place] = "is not a result of a batch, one JSON object with custom_id, response and error"
            return "", None, None
        dialogue = dialogues.get(name)
        if dialogue is None or turn != str(dialogue.turn):
            return name, None, None
        if error or status != 200:
            reason = json.dumps(error or body, ensure_ascii=False)[:_SHOWN]
            self.faults[place] = f"the request failed ({status or 'not sent'}): {reason}"
            return name, dialogue, None
        return name, dialogue, body

    def _requests(self, dialogues: Mapping[str, Dialogue]) -> Iterator[bytes]:
        """Yield the requests that are neither waiting for results nor over budget."""
        waiting = {id_ for path in self._waiting_files() for id_ in _ids_of(path)}
        for name, dialogue in dialogues.items():
            id_, body = f"{name}-{dialogue.turn}", self.options.body(dialogue.due or [])
            cost = self.budget.prices.cost(self.most(body))
            if id_ in waiting:
                self.waiting += 1
            elif not self.budget.affords(self._cost + cost):
                self.over_budget += 1
                continue
            else:
                self.written += 1
                request = {"custom_id": id_, "method": "POST", "url": _URL, "body": body}
                yield json.dumps(request, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            self._cost += cost

    def _waiting_files(self) -> list[Path]:
        files = sorted(path for path in self._folder.glob("*.jsonl") if _REQUESTS.fullmatch(path.name))
        return [path for path in files if not any(self._folder.glob(f"{path.stem}.results*"))]

    def _write(self, lines: Iterable[bytes]) -> Iterator[Path]:
        """Write the lines to new files, and yield their paths."""
        last = max((int(path.name.split(".")[0]) for path in self._folder.glob("[0-9]*.jsonl*")), default=0)
        for number, content in enumerate(_cut(lines), start=last + 1):
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"{number:03}.jsonl"
            write_bytes_atomic(path, content)
            yield path


def _ids_of(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield str(json.loads(line)["custom_id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TeacherError(f"{path} is damaged: {error}; remove it, and its requests are written again") from None


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
