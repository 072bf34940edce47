"""Estimates of questions and tokens before anything is asked. Sends and writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from msd.dataset.load import Dataset
from msd.teachers.collect import group_by_key
from msd.teachers.journal import Journal, key_of
from msd.teachers.knowledge import Knowledge
from msd.teachers.prompts import ANSWER_TOKENS, BYTES_A_TOKEN, Example
from msd.teachers.seeds import Seeding, choose, load_seeds, refuse_seeds
from msd.teachers.share import WHOLE, Share
from msd.teachers.teacher import Question, Teacher, Usage, questions_of

# Number of answers from which an answer's length is estimated.
_ENOUGH = 10


@dataclass(frozen=True)
class TeachingEstimate:
    """Number of questions to ask a teacher, and their expected tokens.

    `measured`: number of the teacher's answers in the folder that give the length of an answer; 0: the rule of thumb.
    """

    questions: int
    usage: Usage
    measured: int = 0


def estimate(
    dataset: Dataset, teacher: Teacher, folder: Path, seeding: Seeding | None = None, share: Share = WHOLE
) -> tuple[TeachingEstimate, TeachingEstimate]:
    """Return what is still due in `folder`, for the seed teacher and the bulk teacher. Repair questions are not
    included."""
    journal = Journal(folder)
    levels = questions_of(dataset)
    own = [one for questions in share.of_levels(levels) for one in questions]
    if seeding is None:
        refuse_seeds(folder)
        return TeachingEstimate(0, Usage()), _due(journal, teacher, own)
    examples = load_seeds(folder, seeding.teacher)
    chosen: list[Question] = []
    if examples is None:
        chosen = [one for questions in levels for one in choose(questions, seeding.number)]
        examples = tuple(_stand_in(question) for question in chosen)
    strong = {key_of(seeding.teacher, one) for one in chosen} | set(journal.answers)
    rest = [one for one in own if key_of(seeding.teacher, one) not in strong]
    return _due(journal, seeding.teacher, chosen), _due(journal, seeding.steer(examples), rest)


def _due(journal: Journal, teacher: Teacher, questions: Iterable[Question]) -> TeachingEstimate:
    groups = group_by_key(teacher, list(questions))
    usages = [teacher.estimate(group[0]) for key, group in groups.items() if not journal.settled(key)]
    usage = sum(usages, Usage())
    lengths = [one.written for one in journal.answers.values() if one.teacher == teacher.name and one.written]
    if len(lengths) < _ENOUGH:
        return TeachingEstimate(len(usages), usage)
    return TeachingEstimate(len(usages), Usage(usage.read, round(len(usages) * fmean(lengths))), len(lengths))


def _stand_in(question: Question) -> Example:
    """Return an example of the expected length."""
    half = "x" * (ANSWER_TOKENS * BYTES_A_TOKEN // 2)
    return Example(question.level, question.text, half, Knowledge(id=question.id, explicit=half, implicit="x"))
