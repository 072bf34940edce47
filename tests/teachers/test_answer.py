"""The words that a model gets, and the answer in the words that it returns."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.teachers.answer import ANSWER_SCHEMA, Written, read_answer
from msd.teachers.prompts import PROMPT_VERSION, prompt_sha256, wording
from tests.teachers.chat_server import right

RIGHT = json.dumps(right("x"))
WORDINGS = {"3": ("45aec2e2bb395e81", "5b1672f0868504f7")}


@pytest.mark.parametrize(
    "raw",
    [
        RIGHT,
        f"```json\n{RIGHT}\n```",
        f"Sure! Here it is:\n{RIGHT}\nAnything else?",
        f'<think>First {{"explicit": "no"}} and {{</think>{RIGHT}',
        f"{{not JSON}} {RIGHT}",
        f'{{"explicit": "a draft"}} {RIGHT}',
        json.dumps(right("x") | {"confidence": 0.9}),
        json.dumps(right(" x ") | {"tags": [" a", "b ", "a", "c", "d", "e"]}).replace("E  x ", " E x "),
    ],
)
def test_answer_is_found_among_other_text(raw: str) -> None:
    found = read_answer(raw)
    assert isinstance(found, Written)
    knowledge = found.about("7")
    assert (knowledge.id, knowledge.explicit, knowledge.tags) == ("7", "E x", ("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "it is empty"),
        ("<think>hm</think>\n", "it is empty"),
        (RIGHT[:-2], "it is cut off"),
        ("[1, 2]", "it holds no JSON object"),
        ('{"a":' * 100_000, "it is cut off"),
        ({"known": "yes"}, "known: should be a valid boolean"),
        ({"explicit": "  "}, "explicit: should have at least 1 character"),
        ({"tags": [1]}, "tags.0: should be a valid string"),
        ({"tags": ["x" * 81]}, "tags.0: should have at most 80 characters"),
        ({"tags": ["a"] * 33}, "tags: should have at most 32 items"),
        ({"reasoning": None}, "reasoning: should be a valid string"),
        ({"explicit": "\ud800"}, "explicit: "),
    ],
)
def test_rejects_wrong_answer(raw: str | dict[str, object], message: str) -> None:
    found = read_answer(raw if isinstance(raw, str) else json.dumps(right("x") | raw))
    assert isinstance(found, str)
    assert found.startswith(message)


@given(st.text())
def test_any_text_is_read_or_rejected(raw: str) -> None:
    assert isinstance(read_answer(raw), str | Written)
    assert isinstance(read_answer("{" + raw), str | Written)


def test_schema_equals_the_check() -> None:
    checked = Written.model_json_schema()
    assert list(ANSWER_SCHEMA["properties"]) == ANSWER_SCHEMA["required"] == checked["required"]
    for name, asked in ANSWER_SCHEMA["properties"].items():
        assert asked["type"] == checked["properties"][name]["type"]


def test_changed_wording_needs_a_new_version() -> None:
    """Answers are kept by version: put the new marks here under a new PROMPT_VERSION."""
    words = "\0".join(wording(name) for name in ("item", "user", "repair"))
    found = hashlib.sha256(words.encode()).hexdigest()[:16], prompt_sha256()[:16]
    assert WORDINGS[PROMPT_VERSION] == found
