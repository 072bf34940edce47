"""Knowledge folders: what is read, and the message about each damaged file."""

import json
from pathlib import Path

import pytest

from msd.dataset.load import load_dataset
from msd.teachers.knowledge import TeacherError, load_knowledge, load_record
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_knowledge(tmp_path / "knowledge", load_dataset(write_tiny_dataset(tmp_path / "data", users=20)))


def fault(folder: Path) -> str:
    with pytest.raises(TeacherError) as error:
        load_knowledge(folder)
    return str(error.value)


def test_items_and_users_are_read(folder: Path) -> None:
    base = load_knowledge(folder)
    assert (len(base.items), len(base.users)) == (79, 20)
    item = base.items["1"]
    assert (item.id, item.known) == ("1", True)
    assert item.explicit.startswith("Cycling")
    assert item.tags
    assert load_record(folder).teacher == "tiny"


def test_known_tags_and_implicit_may_be_absent(folder: Path) -> None:
    lines = [json.dumps({"id": f"u{n}", "explicit": "e", "implicit": ""}) for n in range(20)]
    (folder / "users.jsonl").write_text("\n".join(lines), encoding="utf-8")
    user = load_knowledge(folder).users["u3"]
    assert (user.known, user.tags, user.implicit) == (True, (), "")


RIGHT = {"id": "x", "known": True, "explicit": "e", "implicit": "i", "tags": []}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"id": "\udcff"}', "Invalid JSON"),
        (json.dumps(RIGHT | {"id": ""}), "id: should have at least 1 character"),
        (json.dumps(RIGHT | {"known": 1}), "known: should be a valid boolean"),
        (json.dumps(RIGHT | {"explicit": ""}), "explicit: should have at least 1 character"),
        (json.dumps(RIGHT | {"tags": [1]}), "tags.0: should be a valid string"),
        (json.dumps(RIGHT | {"score": 1}), "score: is not known here"),
        (json.dumps({"id": "x", "known": True, "explicit": "e"}), "implicit: is missing"),
    ],
)
def test_wrong_line_is_named(folder: Path, line: str, message: str) -> None:
    path = folder / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:4], line, *lines[5:]]), encoding="utf-8", errors="surrogateescape")
    found = fault(folder)
    assert f"{path}, line 5: " in found
    assert message in found
    assert "\n" not in found


def test_all_faults_of_a_folder_are_named(folder: Path, tmp_path: Path) -> None:
    items, users = folder / "items.jsonl", folder / "users.jsonl"
    lines = users.read_text(encoding="utf-8").splitlines()
    users.write_text("\n".join([*lines[:-1], lines[0]]), encoding="utf-8")
    assert "the id 'u1' has two answers" in fault(folder)
    users.write_text("\n".join(lines), encoding="utf-8")
    items.write_text("\n".join(items.read_text(encoding="utf-8").splitlines()[:50]), encoding="utf-8")
    assert "holds 50 answers where teach.json counts 79" in fault(folder)
    items.write_text("{\n" * 30, encoding="utf-8")
    assert fault(folder).count("Invalid JSON") == 20
    assert fault(folder).endswith("… and 10 more")
    users.unlink()
    assert fault(folder).endswith("… and 11 more")
    assert "there is no such folder" in fault(tmp_path / "nowhere")
    (folder / "teach.json").unlink()
    assert "`msd teach` has not finished there; run it again" in fault(folder)
    (folder / "teach.json").mkdir()
    assert "teach.json: cannot be read (Is a directory)" in fault(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"format": 2}', "format 2, this release reads 1"),
        ('{"format": 1}', "teacher: is missing"),
    ],
)
def test_rejects_wrong_record(folder: Path, text: str, message: str) -> None:
    (folder / "teach.json").write_text(text, encoding="utf-8")
    assert f"teach.json: {message}" in fault(folder)
