"""What a teacher is: something that answers questions about items and users. One file a backend implements it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.teachers.knowledge import Knowledge

Level = Literal["item", "user"]
LEVELS: tuple[Level, ...] = ("item", "user")


@dataclass(frozen=True)
class Question:
    """One thing to write about: its id, and all that may be known of it."""

    level: Level
    id: str
    text: str


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, those of repair questions included."""

    read: int = 0
    written: int = 0


@dataclass(frozen=True)
class Answered:
    """An answer that can be used. reasoning: how the teacher came to it; never part of the knowledge."""

    question: Question
    knowledge: Knowledge
    reasoning: str = ""
    usage: Usage = Usage()


@dataclass(frozen=True)
class Failed:
    """A question without a usable answer. raw: what was said last, or None if nothing was: asking again may help."""

    question: Question
    raw: str | None
    reason: str
    usage: Usage = Usage()


Reply = Answered | Failed


class Teacher(Protocol):
    """A large language model, or what one has said.

    provenance: who answered and on what terms, kept beside the answers.
    """

    @property
    def name(self) -> str: ...

    @property
    def prompt_version(self) -> str: ...

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


def questions_of(dataset: Dataset) -> tuple[list[Question], list[Question]]:
    """Questions about items and about users that have a text; a user's holds nothing after the profile window."""
    items, users = student_texts(dataset)
    return (
        [Question("item", id_, text) for id_, text in items.items()],
        [Question("user", id_, text) for id_, text in users.items()],
    )
