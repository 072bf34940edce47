"""Titles and words for people: found by id and by title, read when they are asked for."""

import json
from pathlib import Path

import pytest

from service.routes.playground import words as module
from service.routes.playground.words import Words


@pytest.fixture
def words(tmp_path: Path) -> Words:
    """Of a few items."""
    lines = [
        {"id": "1", "title": "Star Wars", "explicit": "Space."},
        {"id": "2", "title": "A War of Stars"},
        {"id": "star", "title": "Something else"},
        {"id": "3", "title": "ÉTÉ à la mer\u2028"},
        {"id": "4", "title": None},
    ]
    path = tmp_path / "items.meta.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return Words(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("star", ["star", "1", "2"]),
        ("STAR war", ["1", "2"]),
        ("été", ["3"]),
        ("4", ["4"]),
        ("nothing such", []),
        ("", ["1", "2", "star", "3", "4"]),
    ],
)
def test_the_id_itself_comes_first_then_titles_that_begin_so(words: Words, text: str, found: list[str]) -> None:
    assert words.find(text, 10) == found
    assert words.find(text, 1) == found[:1]


def test_what_is_said_is_found_by_id(words: Words) -> None:
    assert words.of(["3", "no", "1"]) == {
        "3": {"id": "3", "title": "ÉTÉ à la mer\u2028"},
        "1": {"id": "1", "title": "Star Wars", "explicit": "Space."},
    }
    assert (words.title("1"), words.title("4"), words.title("no")) == ("Star Wars", "4", "no")


def test_no_more_than_so_many_are_looked_at(words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    assert len(Words(tmp_path / "items.meta.jsonl")) == 2


def test_lines_that_say_nothing_of_anybody_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "items.meta.jsonl"
    path.write_bytes(b'[]\n{"id": 1}\n\n{"title": "x"}\n\xff\n' + b"[" * 100_000 + b'\n{"id": "1", "title": 7}\n')
    assert (Words(path).find("", 9), Words(path).title("1")) == (["1"], "7")


def test_without_a_file_there_are_no_words(tmp_path: Path) -> None:
    assert (Words(tmp_path / "none").find("", 9), Words(tmp_path / "none").of(["1"])) == ([], {})
