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


def test_folder_round_trip_keeps_calibration_and_record(world: World, folder: Path) -> None:
    model, record = load_ranker(folder)
    rows = world.features.of_part(Part.TEST)[:50]
    assert np.array_equal(predict(model, world.features, rows), predict(world.model, world.features, rows))
    assert not model.training
    assert list(record.curve) == world.curve
    assert record.feature_schema.schema_hash == world.schema.schema_hash


def test_rejects_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no trained model here \(ranker\.json is missing\); run `msd train`"):
        load_ranker(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1, "more": 1}, "format 1, this release reads 6; train again"),
        ({"vector_dim": "wide"}, "vector_dim: .*integer"),
        ({"surplus": 1}, "surplus: is not known here"),
        ({"feature_schema": {"fields": []}}, "feature_schema: .*exactly one sequence field"),
        ("{", f"{RECORD_FILE}: not JSON"),
        ("[]", f"{RECORD_FILE}: format None"),
    ],
)
def test_rejects_a_record_that_does_not_fit(folder: Path, change: dict[str, object] | str, message: str) -> None:
    path = folder / RECORD_FILE
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFolderError, match=message):
        load_ranker(folder)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", f"{WEIGHTS_FILE}: no such file; train again"),
        ("truncated", f"{WEIGHTS_FILE}: not the weights of {RECORD_FILE}; train again"),
        ("tensor missing", rf"(?s)not the weights of {RECORD_FILE}.*ranker.head.weight"),
        ("other shape", rf"(?s)not the weights of {RECORD_FILE}.*ranker.head.weight"),
    ],
)
def test_rejects_other_weights(folder: Path, kind: str, message: str) -> None:
    path, name = folder / WEIGHTS_FILE, "ranker.head.weight"
    tensors, data = load_file(path), path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        other = tensors.pop(name)[:, :-1].contiguous()
        save_file(tensors | ({name: other} if kind == "other shape" else {}), path)
    with pytest.raises(ModelFolderError, match=message):
        load_ranker(folder)
