"""The interface of teachers, which answer questions about items and users. One file per backend."""

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
        """What those tokens cost."""
        return (self.read * usage.read + self.written * usage.written) / 1e6


@dataclass(frozen=True)
class AnswerSource:
    """Source of an answer. model: the server's name of it. sampling: its options."""

    model: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """An answer that can be used. reasoning: how the teacher came to it; never part of the knowledge.

    source: which model answered, and how its words were drawn, as far as that is known.
    """

    question: Question
    knowledge: Knowledge
    reasoning: str = ""
    usage: Usage = Usage()
    source: AnswerSource = AnswerSource()


@dataclass(frozen=True)
class Failed:
    """A question without a usable answer. raw: what was said last, or None if nothing was: asking again may help.

    repairable: whether the repair question has not been put yet.
    """

    question: Question
    raw: str | None
    reason: str
    usage: Usage = Usage()
    repairable: bool = False


Reply = Answered | Failed


class Teacher(Protocol):
    """A large language model, or what one has said.

    prompt_sha256: of all words that go with a question; empty if that is not known.
    provenance: who answered and on what terms, kept beside the answers.
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
        """All of the question that the answer depends on. Questions with the same input are asked once."""
        ...

    def estimate(self, question: Question) -> Usage:
        """The tokens that asking once is expected to take."""
        ...

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Answers each question once, in any order, as the answers come. Raises TeacherError if it cannot go on."""
        ...


def digest_of(question: Question) -> bytes:
    """A hash of what is asked about, the same on every machine."""
    return hashlib.sha256(json.dumps([question.level, question.text]).encode()).digest()


def questions_of(dataset: Dataset) -> tuple[list[Question], list[Question]]:
    """Questions about items and about users that have a text; a user's holds nothing after the profile window."""
    items, users = teacher_texts(dataset)
    return (
        [Question("item", id_, text) for id_, text in items.items()],
        [Question("user", id_, text) for id_, text in users.items()],
    )
