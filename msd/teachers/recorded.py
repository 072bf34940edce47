"""The `recorded` teacher: answers of a large language model that ship with this package. Sends nothing."""

import gzip
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from msd.dataset.config import DatasetConfig
from msd.teachers.knowledge import Knowledge, TeacherError, by_id, read_lines
from msd.teachers.teacher import Answered, Level, Question

_FIRST = 5


class _About(BaseModel):
    """answers.json. `profile_window`: the share of a user's events that the answers about users are based on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    teacher: str
    prompt_version: str
    provenance: str
    profile_window: Annotated[float, Field(gt=0, lt=1)]


class RecordedTeacher:
    """The recorded answers of one dataset, chosen by its name.

    Raises TeacherError if there are none, or if those about users are based on events after the dataset's window.
    """

    def __init__(self, config: DatasetConfig) -> None:
        folder = _answers() / config.name
        if not folder.is_dir():
            known = ", ".join(sorted(entry.name for entry in _answers().iterdir() if entry.is_dir()))
            raise TeacherError(
                f"there are no recorded answers for the dataset {config.name!r}; there are for {known}. Ask a server "
                "(--teacher openai_compatible --url URL --model NAME), or go on without a teacher: "
                "`msd distill DATASET OUT`"
            )
        self._about = _About.model_validate_json((folder / "answers.json").read_bytes())
        if config.split.profile_window < self._about.profile_window:
            raise TeacherError(
                f"the recorded answers about users of {config.name!r} saw the first {self._about.profile_window:g} of "
                f"each user's events, which a profile_window of {config.split.profile_window:g} would let leak into "
                "training; widen the window"
            )
        self.name, self.prompt_version = self._about.teacher, self._about.prompt_version
        self.prompt_sha256, self.provenance = "", self._about.provenance
        self._dataset = config.name
        self._split_is_given = config.split.column is not None
        self._folder = folder

    def input_of(self, question: Question) -> str:
        """Return only the ID: the answers are recorded by it."""
        return question.id

    def answer(self, questions: Sequence[Question]) -> Iterator[Answered]:
        """Return answers in the questions' order. Raises TeacherError, before the first, naming IDs without an answer.

        If the split is given, questions about users raise it too: their answers may be based on events of any part.
        """
        if self._split_is_given and any(question.level == "user" for question in questions):
            raise TeacherError(
                f"the recorded answers about users of {self._dataset!r} saw the first "
                f"{self._about.profile_window:g} of each user's events, which a split given by a column may have put "
                "into any part, so that they could leak into training; cut by profile_window instead, or leave out "
                "[users] and the window"
            )
        answers = {level: self._read(level) for level in {question.level for question in questions}}
        missing = [question for question in questions if question.id not in answers[question.level]]
        if missing:
            first = ", ".join(question.id for question in missing[:_FIRST])
            raise TeacherError(
                f"the recorded answers for {self._dataset!r} lack {len(missing)} of the {len(questions)} "
                f"{missing[0].level}s asked for (the first: {first}); is it another dataset of that name?"
            )
        return (Answered(question, answers[question.level][question.id]) for question in questions)

    def _read(self, level: Level) -> dict[str, Knowledge]:
        name = f"{level}s.jsonl.gz"
        problems: list[str] = []
        try:
            content = gzip.decompress((self._folder / name).read_bytes())
        except (OSError, EOFError) as error:
            raise TeacherError(f"the recorded answers {name} for {self._dataset!r} are damaged: {error}") from None
        answers = by_id(read_lines(content, name, Knowledge), name, problems)
        if problems:
            raise TeacherError(f"the recorded answers for {self._dataset!r} are damaged: {problems[0]}")
        return answers


def _answers() -> Traversable:
    return resources.files("msd.teachers").joinpath("answers")
