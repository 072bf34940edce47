"""Checks of content: what is no knowledge, what is doubtful, and that a strong model's answers pass."""

import pytest

from msd.dataset.config import DatasetConfig, EventsConfig, ItemsConfig
from msd.teachers.checks import Doubt, Doubtful, doubts_of, weigh
from msd.teachers.knowledge import Knowledge
from msd.teachers.prompts import wording
from msd.teachers.recorded import RecordedTeacher
from msd.teachers.teacher import Level, Question

TENT = Question("item", "1", "Tent. Camping, outdoor.")
FACTS = "A light tent for two people, made for the warm months and quickly put up."
READERS = "Hikers who want to carry little will take it; families who need room will not."
TAGS = ("tent", "camping", "light", "hiking", "summer")


def about(explicit: str = FACTS, implicit: str = READERS, tags: tuple[str, ...] = TAGS) -> Knowledge:
    return Knowledge(id="1", explicit=explicit, implicit=implicit, tags=tags)


@pytest.mark.parametrize(
    ("answer", "doubts"),
    [
        (about(), []),
        (about(explicit="I'm sorry, I cannot help with that."), [Doubt.REFUSAL]),
        (about(implicit="As an AI language model, I have no taste in tents."), [Doubt.REFUSAL]),
        (about(explicit="A comedy of which I cannot confirm the cast; it is about shipwrecked people."), []),
        (about(explicit="tent: camping, OUTDOOR"), [Doubt.ECHO]),
        (about(implicit=FACTS), [Doubt.ECHO]),
        (about(explicit="…"), [Doubt.ECHO]),
        (about(explicit="One or two sentences of facts: what it is."), [Doubt.ECHO]),
        (about(explicit="It is a tent. " * 8), [Doubt.LOOP]),
        (
            about(
                "Ein leichtes Zelt, das zwei Personen Platz bietet und schnell steht.",
                "Wanderer nehmen es gern mit, Familien brauchen mehr Raum.",
            ),
            [Doubt.LANGUAGE],
        ),
        (about(tags=("tent", "Tent", "camping", "light", "warm")), [Doubt.TAGS]),
        (about(tags=tuple("abcdefghi")), [Doubt.TAGS]),
    ],
)
def test_each_doubt_is_found(answer: Knowledge, doubts: list[Doubt]) -> None:
    assert doubts_of(TENT, answer) == doubts


@pytest.mark.parametrize("level", ["item", "user"])
def test_quoted_instructions_are_an_echo(level: Level) -> None:
    lines = [line for line in wording(level).splitlines() if len(line.split()) > 9]
    assert len(lines) > 5
    for line in lines:
        assert Doubt.ECHO in doubts_of(Question(level, "1", "Tent"), about(explicit=line))


def test_strong_models_answers_pass() -> None:
    items = ItemsConfig(file="items.csv", text="{title}")
    teacher = RecordedTeacher(DatasetConfig(format=1, name="ml-100k", events=EventsConfig(file="e.csv"), items=items))
    levels: list[tuple[Level, int]] = [("item", 1682), ("user", 943)]
    for level, number in levels:
        replies = list(teacher.answer([Question(level, str(n), "x") for n in range(1, number + 1)]))
        assert not [reply.question.id for reply in replies if doubts_of(reply.question, reply.knowledge)]


def test_useless_answers_are_left_out_and_doubtful_ones_named() -> None:
    answers = [
        (TENT, about()),
        (Question("item", "2", TENT.text), about()),
        (Question("item", "3", "Lamp"), about(tags=()).model_copy(update={"id": "3"})),
        (Question("item", "4", "Soap"), about(explicit="I cannot help with that.", implicit="Nobody would take it.")),
    ]
    kept, doubtful = weigh(answers)
    assert len(kept) == 3
    assert doubtful == [
        Doubtful("item", "3", (Doubt.TAGS,), left_out=False),
        Doubtful("item", "4", (Doubt.REFUSAL,), left_out=True),
    ]
