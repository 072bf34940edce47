"""A language model's answer: its format, its parser, and the dialogue about one question. Sends nothing."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from msd.teachers.checks import doubts_of
from msd.teachers.knowledge import Knowledge, describe
from msd.teachers.prompts import Message, messages, repair
from msd.teachers.teacher import Answered, AnswerSource, Failed, Question, Reply, Usage

_LONGEST = 4000
_OBJECTS_TRIED = 64
_TURNS = 2

_Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=_LONGEST)]
_Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class Written(BaseModel):
    """One answer. Other keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True)

    reasoning: str
    explicit: _Sentence
    implicit: _Sentence
    tags: Annotated[list[_Tag], Field(max_length=32)]
    known: bool

    def about(self, id_: str) -> Knowledge:
        """Return everything except the reasoning."""
        tags = tuple(dict.fromkeys(self.tags))
        return Knowledge(id=id_, known=self.known, explicit=self.explicit, implicit=self.implicit, tags=tags)


# Written by hand, because servers' strict modes reject pydantic's length limits. Reasoning has to come first.
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reasoning": {"type": "string"},
        "explicit": {"type": "string"},
        "implicit": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "known": {"type": "boolean"},
    },
    "required": ["reasoning", "explicit", "implicit", "tags", "known"],
    "additionalProperties": False,
}


def read_answer(raw: str) -> Written | str:
    """Return the answer in a model's output, or what is wrong with it. <think> tags, code fences and text around the
    object are ignored."""
    said = raw.rpartition("</think>")[2]
    if not said.strip():
        return "it is empty"
    fault = ""
    for found in _objects(said):
        try:
            return Written.model_validate(found)
        except ValidationError as error:
            fault = fault or describe(error)
    if fault:
        return fault
    return "it is cut off" if said.strip().startswith(("{", "```")) else "it holds no JSON object"


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    for _ in range(_OBJECTS_TRIED):
        if start < 0:
            return
        end = start + 1
        try:
            found, end = decoder.raw_decode(text, start)
            yield found
        except (ValueError, RecursionError):
            pass
        start = text.find("{", end)


class Dialogue:
    """A question and, if the answer is wrong, one repair question. A doubtful answer is kept if no better one follows.

    `first`: an earlier answer whose repair question is due.
    """

    def __init__(self, question: Question, first: str | None = None) -> None:
        self._question, self._chat = question, messages(question)
        self._outputs: list[str] = []
        self._usage = Usage()
        self._reason = ""
        self._written: Written | None = None
        self._source = AnswerSource()
        if first is not None:
            self.hear(first, Usage(), self._source)

    @property
    def due(self) -> list[Message] | None:
        """The chat to send next; None if the dialogue is over."""
        if not self._outputs:
            return self._chat
        if self._reason and len(self._outputs) < _TURNS:
            return repair(self._chat, self._outputs[-1], self._reason)
        return None

    @property
    def turn(self) -> int:
        """Number of the next chat, from 1."""
        return len(self._outputs) + 1

    def hear(self, text: str, usage: Usage, source: AnswerSource) -> None:
        """Take the model's reply to the chat."""
        self._outputs.append(text)
        self._usage += usage
        found = read_answer(text)
        if isinstance(found, str):
            self._reason = found
            return
        doubts = doubts_of(self._question, found.about(self._question.id))
        self._reason = "; ".join(doubt.value for doubt in doubts)
        self._written, self._source = found, source

    @property
    def answered(self) -> Answered | None:
        """The outcome, if there is a usable answer."""
        if self._written is None:
            return None
        knowledge = self._written.about(self._question.id)
        return Answered(self._question, knowledge, self._written.reasoning, self._usage, self._source)

    @property
    def reply(self) -> Reply:
        """The outcome."""
        repairable = len(self._outputs) < _TURNS
        return self.answered or Failed(self._question, self._outputs[-1], self._reason, self._usage, repairable)

    def broken_off(self, reason: str) -> Reply:
        """Return the outcome if the next chat could not be sent."""
        raw = self._outputs[-1] if self._outputs else None
        reason = f"{self._reason}; then {reason}" if self._outputs else reason
        return self.answered or Failed(self._question, raw, reason, self._usage)
