"""A language model's answer: its format and its parser. Sends nothing."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from msd.teachers.knowledge import Knowledge, describe

_LONGEST = 4000
_OBJECTS_TRIED = 64

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
