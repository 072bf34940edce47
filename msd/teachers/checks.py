"""Content checks: whether an answer of the right form says something about the question. Sends nothing."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from msd.teachers.knowledge import Knowledge
from msd.teachers.prompts import wording
from msd.teachers.teacher import Level, Question

FEWEST_TAGS, MOST_TAGS = 5, 8


class Doubt(StrEnum):
    """A fault in an answer's content."""

    REFUSAL = "it refuses to answer"
    ECHO = "it repeats the question or the instructions"
    LOOP = "it says the same again and again"
    LANGUAGE = "it is not in English"
    TAGS = f"its tags are not {FEWEST_TAGS} to {MOST_TAGS} different ones"


# Answers without any knowledge.
USELESS = frozenset({Doubt.REFUSAL, Doubt.ECHO})

_REFUSAL = re.compile(
    r"\b(as an? (ai|artificial intelligence|(large )?language model)\b"
    r"|i('m| am) (sorry|unable|not able)\b|i apologi[sz]e\b"
    r"|i (cannot|can't|can not) (help|assist|answer|provide|comply|fulfil|write|create|tell|give|do) ?\b"
    r"|i (do not|don't) have (any |enough |sufficient )?(information|knowledge|access|data)\b)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
# Common English words: a third or more of the words of English sentences, hardly any in other languages.
_ENGLISH = frozenset(
    "the of and to a an in is it that for with as on by who whose or not this from be are at will would has have "
    "but their his her its more than without no about anyone those into them they what".split()
)
_FEWEST_WORDS = 12
_LEAST_ENGLISH = 0.08
_LEAST_VARIED = 0.6
_ECHOED_WORDS = 6


def doubts_of(question: Question, knowledge: Knowledge) -> list[Doubt]:
    """Return the doubts about one answer by itself."""
    explicit, implicit = _words(knowledge.explicit), _words(knowledge.implicit)
    found = {
        Doubt.REFUSAL: bool(_REFUSAL.search(f"{knowledge.explicit} {knowledge.implicit}")),
        Doubt.ECHO: _echoes(question, explicit, implicit),
        Doubt.LOOP: _is_loop(explicit) or _is_loop(implicit),
        Doubt.LANGUAGE: _is_foreign(explicit + implicit),
        Doubt.TAGS: not FEWEST_TAGS <= len({tag.casefold() for tag in knowledge.tags}) <= MOST_TAGS,
    }
    return [doubt for doubt, holds in found.items() if holds]


@dataclass(frozen=True)
class Doubtful:
    """An answer that fails a check, and whether it was left out of the knowledge."""

    level: Level
    id: str
    doubts: tuple[Doubt, ...]
    left_out: bool


def weigh(answers: Sequence[tuple[Question, Knowledge]]) -> tuple[list[Knowledge], list[Doubtful]]:
    """Return the answers of a level to keep, in order, and the doubtful ones. Refusals and echoes are left out."""
    kept, doubtful = [], []
    for question, knowledge in answers:
        found = doubts_of(question, knowledge)
        left_out = not USELESS.isdisjoint(found)
        if found:
            doubtful.append(Doubtful(question.level, question.id, tuple(found), left_out))
        if not left_out:
            kept.append(knowledge)
    return kept, doubtful


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _echoes(question: Question, explicit: list[str], implicit: list[str]) -> bool:
    """Return whether facts or conclusions are empty, repeat the question or each other, or quote the instructions."""
    if not explicit or not implicit or explicit == implicit:
        return True
    asked = _words(question.text)
    if asked in (explicit, implicit):
        return True
    return not _instructions(question.level).isdisjoint((*_runs(explicit), *_runs(implicit)))


@cache
def _instructions(level: Level) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(_words(wording(level))))


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Return all runs of six words, which hardly ever repeat by chance."""
    return (tuple(words[start : start + _ECHOED_WORDS]) for start in range(len(words) - _ECHOED_WORDS + 1))


def _is_loop(words: list[str]) -> bool:
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(words) >= _FEWEST_WORDS and len(set(triples)) < _LEAST_VARIED * len(triples)


def _is_foreign(words: list[str]) -> bool:
    return len(words) >= _FEWEST_WORDS and sum(word in _ENGLISH for word in words) < _LEAST_ENGLISH * len(words)
