"""The tiny dataset, and a student distilled on it once. All students here are short ones; tastes are fitted briefly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from msd.dataset.load import Dataset, load_dataset
from msd.student.distill import DistillConfig
from msd.student.step import distill
from tests.lab.benchmark.made import prepare_tiny
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.student.small import short_student


@pytest.fixture(scope="session", autouse=True)
def _short_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd.student.step.new_student", short_student)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the tiny dataset, its knowledge and its student."""
    work = tmp_path_factory.mktemp("prepared")
    folders = prepare_tiny(work, work, lambda doing, done, total: None)
    distill(*folders, work / "student", DistillConfig(), lambda doing, done, total: None)
    return work


@pytest.fixture(scope="session")
def tiny(prepared: Path) -> Dataset:
    """The tiny dataset."""
    return load_dataset(prepared / "dataset")
