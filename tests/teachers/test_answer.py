"""What is read from what a model says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.teachers.answer import ANSWER_SCHEMA, Written, read_answer
from tests.teachers.chat_server import right

RIGHT = json.dumps(right("x"))


@pytest.mark.parametrize(
    "raw",
    [
        RIGHT,
        f"\n{RIGHT}\n\n",
        f"```json\n{RIGHT}\n```",
        f"Sure! Here it is:\n{RIGHT}\nAnything else?",
        f'<think>First {{"explicit": "no"}} and {{</think>{RIGHT}',
        f"{{not JSON}} {RIGHT}",
        f'{{"explicit": "a draft"}} {RIGHT}',
        f"{RIGHT} {RIGHT}",
        json.dumps(right("x") | {"confidence": 0.9}),
        json.dumps(right(" x ") | {"tags": [" a", "b ", "a", "c", "d", "e"]}).replace("E  x ", " E x "),
        json.dumps(right("x"), ensure_ascii=True, indent=4),
    ],
)
def test_an_answer_is_found_whatever_is_around_it(raw: str) -> None:
    found = read_answer(raw)
    assert isinstance(found, Written)
    knowledge = found.about("7")
    assert (knowledge.id, knowledge.explicit, knowledge.tags) == ("7", "E x", ("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"known": "yes"}, "known: should be a valid boolean"),
        ({"known": None}, "known: should be a valid boolean"),
        ({"explicit": "  "}, "explicit: should have at least 1 character"),
        ({"implicit": ["a"]}, "implicit: should be a valid string"),
        ({"tags": [1]}, "tags.0: should be a valid string"),
        ({"tags": ["x" * 81]}, "tags.0: should have at most 80 characters"),
        ({"tags": ["a"] * 33}, "tags: should have at most 32 items"),
        ({"reasoning": None}, "reasoning: should be a valid string"),
        ({"explicit": "\ud800"}, "explicit: "),
    ],
)
def test_what_is_wrong_is_told(change: dict[str, object], told: str) -> None:
    found = read_answer(json.dumps(right("x") | change))
    assert isinstance(found, str)
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("", "it is empty"),
        ("<think>hm</think>\n", "it is empty"),
        (RIGHT[:-2], "it is cut off"),
        ("```json\n{", "it is cut off"),
        ("[1, 2]", "it holds no JSON object"),
        ("{" * 100_000, "it is cut off"),
        ('{"a":' * 100_000, "it is cut off"),
    ],
)
def test_what_is_no_object_is_told(raw: str, told: str) -> None:
    assert read_answer(raw) == told


@given(st.text())
def test_any_text_is_read_or_faulted(raw: str) -> None:
    assert isinstance(read_answer(raw), str | Written)
    assert isinstance(read_answer("{" + raw), str | Written)


@given(st.builds(lambda text, tags: right(text) | {"tags": tags}, st.text('ab {}"\\\n', max_size=50), st.just(["t"])))
def test_what_a_model_says_well_is_read_back(answer: dict[str, object]) -> None:
    found = read_answer(f"so: {json.dumps(answer)}")
    assert isinstance(found, Written)
    assert found.explicit == str(answer["explicit"]).strip()


def test_the_schema_asks_for_what_is_checked() -> None:
    checked = Written.model_json_schema()
    assert list(ANSWER_SCHEMA["properties"]) == ANSWER_SCHEMA["required"] == checked["required"]
    for name, asked in ANSWER_SCHEMA["properties"].items():
        assert asked["type"] == checked["properties"][name]["type"]
