"""One tiny world for all tests of the ranker."""

from pathlib import Path

import pytest

from msd.__main__ import main
from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset, load_dataset
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.training.train import TrainConfig
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.ranker.made import QUICK, SHORT, Run, Trained, World, train_quickly, word_vectors, write_small_student


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset", users=36)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Dataset:
    return load_dataset(tiny_folder)


@pytest.fixture(scope="session")
def world(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A ranker with semantics, trained on the tiny dataset."""
    return _world(tiny, tmp_path_factory.mktemp("world"), fit_schema(tiny))


@pytest.fixture(scope="session")
def plain_world(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    return _world(tiny, tmp_path_factory.mktemp("plain"), fit_schema(tiny, semantics=False))


@pytest.fixture(scope="session")
def item_world(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One with vectors of items alone, trained for one epoch."""
    schema = fit_schema(tiny, user_semantics=False)
    return _world(tiny, tmp_path_factory.mktemp("item"), schema, SHORT)


@pytest.fixture(scope="session")
def short(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A ranker of the same features, trained for one epoch."""
    return train_quickly(world.features, tmp_path_factory.mktemp("short"), SHORT)


def _world(dataset: Dataset, folder: Path, schema: FeatureSchema, config: TrainConfig = QUICK) -> World:
    vectors = word_vectors(dataset)
    features = build_features(dataset, schema, vectors)
    model, curve = train_quickly(features, folder, config)
    return World(dataset, vectors, schema, features, model, curve)


@pytest.fixture(scope="session")
def student(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small student of the tiny dataset; nobody changes it."""
    folder = tmp_path_factory.mktemp("student") / "student"
    write_small_student(folder, tiny)
    return folder


@pytest.fixture(scope="session")
def semantic_model(tiny_folder: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `msd train --epochs 1` makes."""
    folder = tmp_path_factory.mktemp("models") / "semantic"
    with pytest.raises(SystemExit, match="0"):
        main(["train", str(tiny_folder), str(student), str(folder), "--epochs", "1"])
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of the front door; its exit code and all it said, in one line."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, " ".join((said.out + said.err).split())

    return run
