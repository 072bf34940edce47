"""A ranker comes back from its folder as it was, and a folder that is not whole says what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from msd.dataset.split import Part
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, ModelFolderError, load_ranker
from msd.training.train import predict
from tests.ranker.made import World, save_world


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return save_world(tmp_path / "model", world)


def test_it_comes_back_with_its_calibration_and_record(world: World, folder: Path) -> None:
    model, record = load_ranker(folder)
    rows = world.features.of_part(Part.TEST)[:50]
    assert np.array_equal(predict(model, world.features, rows), predict(world.model, world.features, rows))
    assert not model.training
    assert list(record.curve) == world.curve
    assert record.feature_schema.schema_hash == world.schema.schema_hash


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no trained model here \(ranker\.json is missing\); run `msd train`"):
        load_ranker(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1, "more": 1}, "format 1, this release reads 6; train again"),
        ({"vector_dim": "wide"}, "vector_dim: .*integer"),
        ({"surplus": 1}, "surplus: is not known here"),
        ({"feature_schema": {"fields": []}}, "feature_schema: .*exactly one sequence field"),
    ],
)
def test_a_record_that_does_not_fit_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    record = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps({**record, **change}))
    with pytest.raises(ModelFolderError, match=message):
        load_ranker(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "format None"), ("", "not JSON")])
def test_a_damaged_record_is_named(folder: Path, text: str, message: str) -> None:
    (folder / RECORD_FILE).write_text(text)
    with pytest.raises(ModelFolderError, match=rf"{RECORD_FILE}: {message}"):
        load_ranker(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelFolderError, match=f"{WEIGHTS_FILE}: no such file; train again"):
        load_ranker(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFolderError, match=f"{WEIGHTS_FILE}: not the weights of {RECORD_FILE}; train again"):
        load_ranker(folder)


@pytest.mark.parametrize("kind", ["absent", "other shape"])
def test_weights_of_another_model_are_refused(folder: Path, kind: str) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    name = "ranker.head.weight"
    if kind == "absent":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(ModelFolderError, match=rf"(?s)not the weights of {RECORD_FILE}.*{name}"):
        load_ranker(folder)
