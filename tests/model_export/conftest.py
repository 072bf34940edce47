"""One tiny run from dataset to bundle, with and without semantics, and its graph in the precisions that run here."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from model_export.export import export_bundle
from model_export.inputs import own_recipe
from model_export.precision.evidence import Evidence
from model_export.precision.int8 import quantise
from model_export.ranker import HEADS
from model_export.recipe import Recipe
from model_export.run import Run as ModelRun
from model_export.run import open_run
from msd.contract.bundle import RANKER, Bundle, open_bundle
from msd.contract.precision import Precision
from msd.dataset.load import load_dataset
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.teachers.knowledge import load_knowledge
from msd.training.folder import load_ranker
from native.bundle_rows import BundleRows
from tests.bundles.factory import has_bf16
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.ranker.made import SHORT, World, save_world, train_quickly, write_small_student


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
    inputs: Recipe
    features: Features
    trained: TrainedRanker


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The steps before the export; nobody changes their folders."""
    folder = tmp_path_factory.mktemp("run")
    made = Run(*(folder / name for name in ("dataset", "knowledge", "student", "semantic", "plain")))
    dataset = load_dataset(write_tiny_dataset(made.dataset, users=36))
    write_tiny_knowledge(made.knowledge, dataset)
    made.student.mkdir()
    vectors = write_small_student(made.student, dataset, load_knowledge(made.knowledge).items)
    for out, semantics in ((made.semantic, True), (made.plain, False)):
        features = build_features(dataset, fit_schema(dataset, semantics=semantics), vectors)
        model, curve = train_quickly(features, folder / f"{out.name}.work", SHORT)
        save_world(out, World(dataset, vectors, features.schema, features, model, curve))
    return made


def quiet(*_: object) -> None:
    """A status that nobody sees."""


def _export(run: Run, model: Path, folder: Path) -> Exported:
    inputs = own_recipe(run.dataset, run.knowledge, run.student, model, None)
    assert export_bundle(inputs, folder / "bundle", folder / "replay.jsonl", 2_400, quiet)
    features = build_features(inputs.dataset, inputs.schema, inputs.vectors)
    return Exported(open_bundle(folder / "bundle"), folder / "replay.jsonl", inputs, features, load_ranker(model).model)


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle with semantics; nobody changes it."""
    return _export(run, run.semantic, tmp_path_factory.mktemp("semantic"))


@pytest.fixture(scope="session")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle without semantics; nobody changes it."""
    return _export(run, run.plain, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def graph(exported: Exported) -> bytes:
    return exported.bundle.path(RANKER).read_bytes()


@pytest.fixture(scope="session")
def evidence(exported: Exported) -> Evidence:
    return Evidence(exported.inputs.dataset, exported.features, BundleRows.of(exported.bundle))


@pytest.fixture(scope="session")
def in_int8(graph: bytes, evidence: Evidence) -> bytes:
    return quantise(graph, evidence.train())


@pytest.fixture(scope="session")
def runs(graph: bytes, in_int8: bytes) -> dict[Precision, ModelRun]:
    """Whatever of the graph runs here; bf16 may not."""
    found: dict[Precision, ModelRun] = {
        "fp32": open_run(graph, "fp32", HEADS),
        "int8": open_run(in_int8, "int8", HEADS),
    }
    if has_bf16():
        found["bf16"] = open_run(graph, "bf16", HEADS)
    return found
