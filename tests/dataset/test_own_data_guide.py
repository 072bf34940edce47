"""The guide in docs/own-data.md: its example runs, and `msd data init` and `check` print of its log what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msd.dataset.command import app
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.texts import student_texts
from msd.teachers.knowledge import load_knowledge

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "110"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The guide's folder after its first commands, and what `init` and `check` printed."""
    folder = tmp_path_factory.mktemp("guide")
    subprocess.run([sys.executable, ROOT / "examples/own_log/make_log.py"], cwd=folder, check=True)
    return folder, run("init", folder / "log.csv", folder / "data"), run("check", folder / "data")


@pytest.fixture(scope="module")
def dataset(made: tuple[Path, str, str]) -> Dataset:
    return load_dataset(made[0] / "data")


def squeezed(text: str) -> str:
    return " ".join(re.sub("[│┃]", " ", text).split())


def test_guide_shows_the_output(made: tuple[Path, str, str]) -> None:
    _, init, check = made
    shown = blocks("text")
    assert squeezed(shown[0]) in squeezed(init)
    found = squeezed(check)
    for line in shown[1].splitlines():
        assert line.strip() == "…" or squeezed(line) in found, line


def test_guide_shows_the_configuration(made: tuple[Path, str, str]) -> None:
    written = (made[0] / "data" / "dataset.toml").read_text(encoding="utf-8").splitlines()
    (first, *_) = blocks("toml")
    for line in first.splitlines():
        assert line == "…" or line in written, line


def test_guides_click_rate_holds(dataset: Dataset) -> None:
    assert dataset.events.height == 160_000
    assert 0.005 < dataset.events["label"].to_numpy().mean() < 0.006


def test_guides_knowledge_fits_the_dataset(made: tuple[Path, str, str], dataset: Dataset) -> None:
    base = load_knowledge(made[0] / "knowledge")
    assert set(base.items) == set(dataset.items["item_id"]) == set(student_texts(dataset)[0])
