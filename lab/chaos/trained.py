"""A dataset and a bundle trained on it: from `msd demo`, or made here from a benchmark's raw files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lab.benchmark.collm import prepare
from lab.chaos.environment import Environment
from lab.chaos.scenario import Unable
from loadtest.processes import msd_output
from msd.contract.bundle import MANIFEST
from msd.dataset.config import CONFIG_FILE

DEMO = Path("runs/demo")


class TrainedFolders(NamedTuple):
    """Folders. Student and model, needed only for comparison, may be missing."""

    dataset: Path
    student: Path
    model: Path
    bundle: Path


def trained(environment: Environment) -> TrainedFolders:
    """Return those of the named data, otherwise of the demo. Raises Unable if there is neither."""
    folder = environment.data or DEMO
    if (folder / "train.parquet").is_file():
        return _made(environment, folder)
    found = TrainedFolders(
        folder / "dataset", folder / "student", folder / "models" / "with-semantics", folder / "bundle"
    )
    if not ((found.dataset / CONFIG_FILE).is_file() and (found.bundle / MANIFEST).is_file()):
        raise Unable(
            f"{folder} has no dataset with a bundle that was trained on it: run `make demo` first, or name the CoLLM"
            " benchmark's files by DATA (--data)"
        )
    return found


def _made(environment: Environment, data: Path) -> TrainedFolders:
    """Train without semantics, which takes minutes; stored beside the reference model."""
    work = environment.kept / "collm-ml-1m"
    folders = prepare(data, work, environment.heard)
    student, model, bundle = work / "student", work / "model", work / "bundle"
    steps: Sequence[tuple[str | Path, ...]] = (
        ("distill", folders.dataset, folders.knowledge, student, "--epochs", "1"),
        ("train", folders.dataset, model, "--no-semantics"),
        ("export", folders.dataset, folders.knowledge, student, model, bundle),
    )
    for place, step in enumerate(steps):
        environment.heard(f"live-counts: msd {step[0]}", place, len(steps))
        msd_output(*map(str, step))
    return TrainedFolders(folders.dataset, student, model, bundle)
