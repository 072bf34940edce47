"""One tiny run from dataset to bundle, with and without semantics, for all tests of the export."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from model_export.export import export_bundle
from model_export.inputs import ExportInputs, load_inputs
from msd.contract.bundle import Bundle, open_bundle
from msd.dataset.load import load_dataset
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.record import VECTOR_DIM
from msd.training.folder import RankerRecord, save_ranker
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.ranker.made import SHORT, SMALL, train_quickly
from tests.ranker.tuned import write_small_student


@dataclass(frozen=True)
class Run:
    """The folders that the steps before the export left, by step."""

    dataset: Path
    knowledge: Path
    student: Path
    semantic: Path
    plain: Path


@dataclass(frozen=True)
class Exported:
    """A bundle, the requests that it was proved on, and what it was made of."""

    bundle: Bundle
    replay: Path
    inputs: ExportInputs
    features: Features


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The steps before the export; nobody changes their folders."""
    folder = tmp_path_factory.mktemp("run")
    made = Run(*(folder / name for name in ("dataset", "knowledge", "student", "semantic", "plain")))
    dataset = load_dataset(write_tiny_dataset(made.dataset, users=36))
    write_tiny_knowledge(made.knowledge, dataset)
    made.student.mkdir()
    vectors = write_small_student(made.student, dataset)
    for out, semantics in ((made.semantic, True), (made.plain, False)):
        features = build_features(dataset, fit_schema(dataset, semantics=semantics), vectors)
        model, curve = train_quickly(features, folder / f"{out.name}.work", SHORT)
        record = RankerRecord(
            feature_schema=features.schema,
            config=SMALL,
            training={"seed": 0},
            curve=tuple(curve),
            vector_dim=VECTOR_DIM,
            dataset=dataset.fingerprint,
            student=vectors.student,
        )
        save_ranker(out, model, record)
    return made


def quiet(*_: object) -> None:
    """A status that nobody sees."""


def _export(run: Run, model: Path, folder: Path) -> Exported:
    inputs = load_inputs(run.dataset, run.knowledge, run.student, model, None)
    assert export_bundle(inputs.recipe(), folder / "bundle", folder / "replay.jsonl", 2_400, quiet)
    features = build_features(inputs.dataset, inputs.trained.schema, inputs.vectors)
    return Exported(open_bundle(folder / "bundle"), folder / "replay.jsonl", inputs, features)


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle with semantics; nobody changes it."""
    return _export(run, run.semantic, tmp_path_factory.mktemp("semantic"))


@pytest.fixture(scope="session")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle without semantics; nobody changes it."""
    return _export(run, run.plain, tmp_path_factory.mktemp("plain"))
