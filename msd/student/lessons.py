"""The student's lessons: texts by level, the teacher's words as targets, and which lessons are held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msd.contract.words import BagOfWords, join_words
from msd.student.record import WORDS_DIM, StudentError
from msd.student.vectors import Level
from msd.teachers.knowledge import Knowledge, KnowledgeBase

LEVELS: tuple[Level, ...] = ("items", "users")
MIN_ITEMS = 10
_MOST_TERMS = 30_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lessons:
    """The k taught IDs of a level, with their texts and knowledge; `held` [k]: whether each is held out."""

    level: Level
    ids: list[str]
    texts: list[str]
    knowledge: list[Knowledge]
    held: npt.NDArray[np.bool_]


def make_lessons(
    level: Level, texts: Mapping[str, str], knowledge: Mapping[str, Knowledge], holdout: float, seed: int
) -> Lessons:
    """Pair texts with knowledge; the seed draws the share `holdout` of the pairs that is held out.

    Texts without knowledge and knowledge without a text are left out; blank ones count as missing.
    """
    known = {name for name, entry in knowledge.items() if teachers_words([entry])[0].strip()}
    kept = {name: text for name, text in texts.items() if text.strip() and name in known}
    held = np.zeros(len(kept), bool)
    order = np.random.default_rng([seed, LEVELS.index(level)]).permutation(len(kept))
    held[order[: round(holdout * len(kept))]] = True
    return Lessons(level, list(kept), list(kept.values()), [knowledge[name] for name in kept], held)


def all_lessons(texts: Sequence[Mapping[str, str]], base: KnowledgeBase, holdout: float, seed: int) -> list[Lessons]:
    """Return the lessons of items and of users. Raises StudentError if too few items have both a text and knowledge."""
    knowledge = (base.items, base.users)
    lessons = [
        make_lessons(level, named, known, holdout, seed)
        for level, named, known in zip(LEVELS, texts, knowledge, strict=True)
    ]
    count = len(lessons[0].ids)
    if count < MIN_ITEMS:
        raise StudentError(
            f"only {count} items have both a text and knowledge, of {len(texts[0])} with a text and "
            f"{len(base.items)} with knowledge; at least {MIN_ITEMS} are needed: is it this dataset's knowledge?"
        )
    return lessons


def teachers_words(knowledge: Sequence[Knowledge]) -> list[str]:
    """Return all of the teacher's words by lesson."""
    return [join_words(entry.explicit, entry.tags, entry.implicit) for entry in knowledge]


def fit_bag(texts: Sequence[str]) -> BagOfWords:
    """Return a bag of words with the 128 directions in which n texts differ most (latent semantic analysis). Few texts,
    or few words, have fewer: the rest stays zero."""
    # Loaded here: a command that only names its options needs neither.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    nothing = np.zeros((0, WORDS_DIM), np.float32)
    # Very rare or frequent terms carry little; a handful of texts may have no others.
    for bounds in ({"min_df": 3, "max_df": 0.5}, {}):
        found = TfidfVectorizer(
            sublinear_tf=True, stop_words="english", ngram_range=(1, 2), max_features=_MOST_TERMS, **bounds
        )
        try:
            counts = found.fit_transform(texts)
        except ValueError:  # no terms are left
            continue
        _, _, directions = randomized_svd(counts, min(WORDS_DIM, *counts.shape), random_state=0)
        padded = np.zeros((counts.shape[1], WORDS_DIM), np.float32)
        padded[:, : len(directions)] = directions.T
        terms, stop_words = tuple(found.get_feature_names_out().tolist()), found.get_stop_words()
        return BagOfWords(terms, stop_words, found.idf_.astype(np.float64), padded, nothing, nothing[:, 0])
    return BagOfWords((), frozenset(), np.zeros(0), nothing, nothing, nothing[:, 0])
