"""One run of the whole path, from dataset to bundle, for all tests of it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from msd.dataset.load import load_dataset
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.service.live import ROOT, run_msd
from tests.student.small import short_student

USERS = 30
Done = subprocess.CompletedProcess[str]
Line = tuple[str | Path, ...]

# One thread each, so that equal runs give equal bits.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("MSD_")},
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "300",
}


def msd(*arguments: str | Path) -> Done:
    """One command in a process of its own, to its end."""
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def command(*arguments: str | Path) -> list[str]:
    """The command line of `msd ARGUMENTS`."""
    return [sys.executable, "-W", "error::ResourceWarning", "-m", "msd", *map(str, arguments)]


@dataclass(frozen=True)
class Pipeline:
    """The folders of one run, and the commands between knowledge and bundle."""

    dataset: Path
    knowledge: Path
    student: Path
    semantic: Path
    plain: Path
    figures: Path
    bundle: Path
    replay: Path

    @property
    def distill(self) -> Line:
        """Dataset and knowledge to student."""
        return ("distill", self.dataset, self.knowledge, self.student)

    @property
    def train(self) -> Line:
        """Student to model."""
        return ("train", self.dataset, self.student, self.semantic, "--epochs", "1")

    @property
    def train_plain(self) -> Line:
        """Dataset to a model without semantics."""
        return ("train", self.dataset, self.plain, "--epochs", "1", "--no-semantics")

    @property
    def evaluate(self) -> Line:
        """Both models to figures."""
        return (
            *("evaluate", self.dataset, self.student, self.figures),
            *("--model", self.semantic, "--model", self.plain),
        )

    @property
    def export(self) -> Line:
        """Everything to a bundle and its requests on record."""
        return (
            *("export", self.dataset, self.knowledge, self.student, self.semantic, self.bundle),
            *("--evaluation", self.figures / "evaluation.json", "--replay", self.replay),
        )


def write_inputs(root: Path) -> Pipeline:
    """The dataset, and the knowledge that a teacher might have given."""
    names = ("dataset", "knowledge", "student", "semantic", "plain", "figures", "bundle", "replay.jsonl")
    pipeline = Pipeline(*(root / name for name in names))
    write_tiny_dataset(pipeline.dataset, users=USERS, items=40)
    write_tiny_knowledge(pipeline.knowledge, load_dataset(pipeline.dataset))
    return pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every offline step, done with a student of two layers; nobody changes the folders. A newcomer's is whole."""
    made = write_inputs(tmp_path_factory.mktemp("pipeline"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd.student.step.new_student", short_student)
        for line in (made.distill, made.train, made.train_plain, made.evaluate, made.export):
            # In this process, which spares each of them the loading of torch.
            done = run_msd(*map(str, line))
            assert done.returncode == 0, done.stdout + done.stderr
            assert "done before" not in done.stdout
    return made
