"""What a teacher is: something that answers questions about items and users. One file a backend implements it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.teachers.knowledge import Knowledge

Level = Literal["item", "user"]


@dataclass(frozen=True)
class Question:
    """One thing to write about: its id, and all that may be known of it."""

    level: Level
    id: str
    text: str


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

    def answer(self, questions: Sequence[Question]) -> Iterator[Knowledge]:
        """Answers questions of one level, each once, in any order, as they come. Raises TeacherError if it cannot."""
        ...


def questions_of(dataset: Dataset) -> tuple[list[Question], list[Question]]:
    """Questions about items and about users that have a text; a user's holds nothing after the profile window."""
    items, users = student_texts(dataset)
    return (
        [Question("item", id_, text) for id_, text in items.items()],
        [Question("user", id_, text) for id_, text in users.items()],
    )
