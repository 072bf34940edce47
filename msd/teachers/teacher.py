"""Interface of teachers, which answer questions about items and users. One file per backend."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from msd.dataset.load import Dataset
from msd.dataset.texts import teacher_texts
from msd.teachers.knowledge import Knowledge

Level = Literal["item", "user"]
LEVELS: tuple[Level, ...] = ("item", "user")


@dataclass(frozen=True)
class Question:
    """One item or user: its ID, and everything known about it."""

    level: Level
    id: str
    text: str


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, those of repair questions included."""

    read: int = 0
    written: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.read + other.read, self.written + other.written)


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, input and output, in any currency."""

    read: float = 0.0
    written: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Return the cost of some tokens."""
        return (self.read * usage.read + self.written * usage.written) / 1e6


@dataclass(frozen=True)
class ModelServer:
    """Address and limits of a server. `url`: up to and including /v1. `timeout`, `pause`: seconds for one reply, and
    before the second attempt (then doubled)."""

    url: str
    model: str
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    max_tokens: int = 1024


@dataclass(frozen=True)
class AnswerSource:
    """Source of an answer. `model`: its name on the server. `sampling`: its options."""

    model: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """A usable answer. `reasoning`: how the teacher came to it; never part of the knowledge.

    `source`: the model and its sampling, as far as known.
    """

    question: Question
    knowledge: Knowledge
    reasoning: str = ""
    usage: Usage = Usage()
    source: AnswerSource = AnswerSource()


@dataclass(frozen=True)
class Failed:
    """A question without a usable answer. `raw`: the last output, or None if there was none: asking again may help.

    `repairable`: whether the repair question has not been asked yet.
    """

    question: Question
    raw: str | None
    reason: str
    usage: Usage = Usage()
    repairable: bool = False


Reply = Answered | Failed


class Teacher(Protocol):
    """A large language model, or its recorded answers.

    `prompt_sha256`: of all words that go with a question; empty if unknown. `provenance`: the origin of the answers and
    the terms of their use, stored beside them.
    """

    @property
    def name(self) -> str: ...

    @property
    def prompt_version(self) -> str: ...

    @property
    def prompt_sha256(self) -> str: ...

    @property
    def provenance(self) -> str: ...

    def input_of(self, question: Question) -> str:
        """Return everything in the question that the answer depends on. Questions with the same input are asked
        once."""
        ...

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Answer each question once, in any order, as answers arrive. Raises TeacherError if it cannot go on."""
        ...


def questions_of(dataset: Dataset, limit: int | None = None) -> tuple[list[Question], list[Question]]:
    """Return questions about the items and users that have a text; a user's has nothing from after the profile
    window. `limit`: maximum number of different texts per level, a fixed sample."""
    items, users = teacher_texts(dataset)
    return (
        _sample([Question("item", id_, text) for id_, text in items.items()], limit),
        _sample([Question("user", id_, text) for id_, text in users.items()], limit),
    )


def _sample(questions: list[Question], limit: int | None) -> list[Question]:
    """Return the questions whose texts have the smallest digests: a higher limit keeps those of a lower one."""
    if limit is None:
        return questions
    digests = [hashlib.sha256(json.dumps([question.level, question.text]).encode()).digest() for question in questions]
    chosen = set(sorted(set(digests))[:limit])
    return [question for question, digest in zip(questions, digests, strict=True) if digest in chosen]
