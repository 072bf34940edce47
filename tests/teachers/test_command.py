"""`msd teach` on a dataset with recorded answers."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from msd.teachers.command import app
from msd.teachers.knowledge import TeacherError, load_knowledge
from tests.dataset.small import CONFIG, write_small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small dataset under the name, and with the ids, of MovieLens-100K."""
    folder = write_small(tmp_path / "data", config=CONFIG.replace('"small"', '"ml-100k"'))
    for name in ("events.csv", "users.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("\nu", "\n"), encoding="utf-8")
    return folder


def test_answers_are_written_once(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        result = CliRunner().invoke(app, [str(folder), str(tmp_path / "out"), "--teacher", "recorded"])
        assert result.exit_code == 0, result.output
        assert "3 items, 5 users, by recorded-1" in result.output
    assert set(load_knowledge(tmp_path / "out").items) == {"1", "2", "10"}


def test_a_dataset_without_recorded_answers_is_told(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "data")
    result = CliRunner().invoke(app, [str(folder), str(tmp_path / "out")])
    assert isinstance(result.exception, TeacherError)
    assert not (tmp_path / "out").exists()


def test_an_unknown_teacher_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(folder), str(tmp_path / "out"), "--teacher", "oracle"])
    assert result.exit_code == 2
    assert "recorded" in result.output
