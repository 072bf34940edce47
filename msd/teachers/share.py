"""Shares of all questions for independent runs on any machines, and the joining of their answers. Sends nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msd.contract.files import write_bytes_atomic
from msd.teachers.journal import ANSWERS_FILE, Journal, claim
from msd.teachers.knowledge import TeacherError
from msd.teachers.seeds import SEEDS_FILE
from msd.teachers.teacher import Question, digest_of

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Share:
    """The `part`-th, from 1, of `of` shares. Together they have each question once.

    `limit`: maximum number of different texts per level, a sample of the share; None: all.
    """

    part: int
    of: int
    limit: int | None = None

    def holds(self, question: Question) -> bool:
        """Return whether a question is in this share, by a hash of its text: equal texts are asked once, in any run."""
        return int.from_bytes(digest_of(question)[:8]) % self.of == self.part - 1

    def of_levels(self, levels: Sequence[Sequence[Question]]) -> list[list[Question]]:
        """Return each level's questions in this share, in the same order."""
        return [self._sample([question for question in questions if self.holds(question)]) for questions in levels]

    def _sample(self, questions: list[Question]) -> list[Question]:
        """Return the questions whose texts have the smallest digests: a higher limit keeps those of a lower one."""
        if self.limit is None:
            return questions
        chosen = set(sorted({digest_of(question) for question in questions})[: self.limit])
        return [question for question in questions if digest_of(question) in chosen]


WHOLE = Share(1, 1)


def parse_share(text: str) -> Share:
    """Parse a share such as 3/100. Raises TeacherError."""
    found = _FORM.fullmatch(text)
    share = Share(int(found[1]), int(found[2])) if found else None
    if share is None or not 1 <= share.part <= share.of:
        raise TeacherError(f"--part {text}: should be K/N, the K-th of N shares, from 1/N to N/N")
    return share


def join_answers(folder: Path, others: Sequence[Path]) -> int:
    """Append the answers of other folders to `folder`, which is created if missing; return the number of new ones.

    Raises TeacherError, before anything is written, if one is not a folder of answers, or was shown other seeds: its
    answers are to other questions.
    """
    try:
        journals = [Journal(_checked(other)) for other in others]
        seeds = _common_seeds(folder, others)
        claim(folder)
        if seeds is not None:
            write_bytes_atomic(folder / SEEDS_FILE, seeds)
        with Journal(folder) as journal:
            return sum(map(journal.take, journals))
    except OSError as error:
        raise TeacherError(f"{folder} cannot be written: {error}") from None


def _checked(other: Path) -> Path:
    if not (other / ANSWERS_FILE).is_file():
        raise TeacherError(f"--join {other}: holds no {ANSWERS_FILE}; name a folder that `msd teach` writes")
    return other


def _common_seeds(folder: Path, others: Sequence[Path]) -> bytes | None:
    """Return the seeds that all folders with seeds share; None if there are none. Raises TeacherError if they
    differ."""
    first: Path | None = None
    for one in (folder, *others):
        if not (one / SEEDS_FILE).is_file():
            continue
        if first is None:
            first = one
        elif (one / SEEDS_FILE).read_bytes() != (first / SEEDS_FILE).read_bytes():
            raise TeacherError(f"--join {one}: its {SEEDS_FILE} is another one than that of {first}: share one file")
    return None if first is None else (first / SEEDS_FILE).read_bytes()
