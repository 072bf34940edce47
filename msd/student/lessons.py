"""What the student is taught: texts by level, the encodings of what the teacher wrote, and which are held out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msd.student.encoder import Student, encode_plain
from msd.student.record import HEADS, VECTOR_DIM, StudentError, Vectors
from msd.student.vectors import Level
from msd.teachers.knowledge import Knowledge, KnowledgeBase

LEVELS: tuple[Level, ...] = ("items", "users")
MIN_ITEMS = 10

Advance = Callable[[str, int, int, str], None]  # step's name, done, total, a note such as the loss
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lessons:
    """A level's n ids and texts; k of them, `rows` [k], have knowledge [k], and of these `held` [k] are held out."""

    level: Level
    ids: list[str]
    texts: list[str]
    rows: Rows
    knowledge: list[Knowledge]
    held: npt.NDArray[np.bool_]


def make_lessons(
    level: Level, texts: Mapping[str, str], knowledge: Mapping[str, Knowledge], holdout: float, seed: int
) -> Lessons:
    """Pairs texts with knowledge; a share `holdout` of the pairs is held out, drawn by the seed.

    Texts without knowledge stay, to be encoded. Blank texts are left out, and
    knowledge that has no text or says nothing.
    """
    kept = {name: text for name, text in texts.items() if text.strip()}
    ids = list(kept)
    known = {name for name, entry in knowledge.items() if teachers_words([entry])[0].strip()}
    rows = np.asarray([row for row, name in enumerate(ids) if name in known], np.int64)
    held = np.zeros(len(rows), bool)
    order = np.random.default_rng([seed, LEVELS.index(level)]).permutation(len(rows))
    held[order[: round(holdout * len(rows))]] = True
    return Lessons(level, ids, list(kept.values()), rows, [knowledge[ids[row]] for row in rows], held)


def all_lessons(texts: Sequence[Mapping[str, str]], base: KnowledgeBase, holdout: float, seed: int) -> list[Lessons]:
    """Lessons of items and of users. Raises StudentError if too few items have both a text and knowledge."""
    knowledge = (base.items, base.users)
    lessons = [
        make_lessons(level, named, known, holdout, seed)
        for level, named, known in zip(LEVELS, texts, knowledge, strict=True)
    ]
    items = lessons[0]
    if len(items.rows) < MIN_ITEMS:
        raise StudentError(
            f"only {len(items.rows)} items have both a text and knowledge, of {len(items.ids)} with a text and "
            f"{len(base.items)} with knowledge; at least {MIN_ITEMS} are needed: is it this dataset's knowledge?"
        )
    return lessons


def target_texts(knowledge: Sequence[Knowledge]) -> tuple[list[str], list[str]]:
    """What each head is to say: the facts with the tags, and who would want it."""
    explicit = [" ".join([entry.explicit, ", ".join(entry.tags)]).strip() for entry in knowledge]
    return explicit, [entry.implicit for entry in knowledge]


def teachers_words(knowledge: Sequence[Knowledge]) -> list[str]:
    """All that the teacher wrote of each."""
    return [" ".join(parts) for parts in zip(*target_texts(knowledge), strict=True)]


def encode_targets(student: Student, lessons: Lessons, advance: Advance) -> Vectors:
    """Targets [k, 896]: the untrained student's sentence embeddings of the teacher's explicit ‖ implicit texts.

    There are zeros where he wrote nothing, and in place of the words, which are a bag's to say.
    """
    texts = target_texts(lessons.knowledge)
    written = [[row for row, text in enumerate(part) if text.strip()] for part in texts]
    result, done = np.zeros((len(lessons.rows), VECTOR_DIM), np.float32), 0

    def count(batch: int) -> None:
        nonlocal done
        done += batch
        advance(f"reading what the teacher wrote of {lessons.level}", done, sum(map(len, written)), "")

    for name, part, rows in zip(("explicit", "implicit"), texts, written, strict=True):
        result[rows, HEADS[name]] = encode_plain(student, [part[row] for row in rows], on_batch=count)
    return result
