"""Models and tensors come back from their folders as they were, and a damaged folder says what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker import tensor_folder
from msd.ranker.batch import event_tensors
from msd.ranker.features import build_features
from msd.ranker.tensor_folder import (
    ADAPTORS_FILE,
    TensorFolderError,
    load_adaptors,
    load_record,
    read_part,
    stream_batches,
    write_tensors,
)
from msd.ranker.tensor_folder import (
    RECORD_FILE as TENSORS_FILE,
)
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, ModelFolderError, load_ranker
from msd.training.train import predict
from tests.ranker.made import Run, World, batch_logits, save_world, word_vectors, write_student


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
        ({"format": 7, "surplus": 1}, "format 7, this release reads 13; train again"),
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


Write = Callable[[bool], Path]


@pytest.fixture
def write(world: World, tmp_path: Path) -> Write:
    def go(semantics: bool) -> Path:
        folder = tmp_path / "tensors"
        write_tensors(world.dataset, world.vectors, semantics, folder, lambda *_: None)
        return folder

    return go


@pytest.mark.parametrize("semantics", [True, False])
def test_folder_has_every_row_in_order(
    world: World, write: Write, semantics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_folder, "ROWS", 100)
    folder = write(semantics)
    record = load_record(folder)
    assert (record.dataset, record.student) == (world.dataset.fingerprint, world.vectors.student if semantics else None)
    features = build_features(world.dataset, record.feature_schema, world.vectors)
    features = load_adaptors(folder, record).adapt(features)
    assert ("item_semantic" in {spec.name for spec in record.feature_schema.tensors}) == semantics
    for name, parts in {"train": (Part.WINDOW, Part.TRAIN), "valid": (Part.VALID,), "test": (Part.TEST,)}.items():
        events = features.of_part(*parts)
        found, expected = read_part(folder, name), event_tensors(features, events)
        assert len(found["label"]) == len(events) == record.rows[name]
        assert torch.equal(found.pop("label"), features.labels[events])
        assert torch.equal(found.pop("user"), features.user.rows[events].long())
        assert torch.equal(found.pop("impressions"), features.impressions[events])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    shares = sorted(folder.glob("train-*.safetensors"))
    assert len(shares) == -(-record.rows["train"] // 100) > 1
    assert all(len(load_file(path)["label"]) <= 100 for path in shares)


def test_stream_has_every_row_once_and_resumes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 128), ("BLOCK", 16), ("POOL", 4)):
        monkeypatch.setattr(tensor_folder, name, value)
    folder = write(False)
    whole = read_part(folder, "train")
    batches = list(stream_batches(folder, "train", 24, epoch=1))

    def rows(of: list[dict[str, torch.Tensor]]) -> list[tuple[float, ...]]:
        return [tuple(row) for one in of for row in torch.cat([one["user_dense"], one["label"][:, None]], 1).tolist()]

    assert sorted(rows(batches)) == sorted(rows([whole]))
    assert rows(batches) != rows([whole])
    assert rows(list(stream_batches(folder, "train", 24, epoch=1, start=5))) == rows(batches[5:])
    assert rows(list(stream_batches(folder, "train", 24, epoch=2))) != rows(batches)
    first, second = (list(stream_batches(folder, "train", 24, epoch=1, rank=rank, size=2)) for rank in (0, 1))
    for one, other, both in zip(first, second, batches, strict=True):
        assert len(one["label"]) == len(other["label"]) == len(both["label"]) // 2
        assert set(rows([one, other])) <= set(rows([both]))


def test_rewriting_removes_old_files(write: Write) -> None:
    folder = write(True)
    (folder / "train-00007.safetensors").write_bytes(b"old")
    write(False)
    assert not (folder / "train-00007.safetensors").exists()
    assert not (folder / ADAPTORS_FILE).exists()
    assert load_record(folder).student is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TENSORS_FILE, b"{", "not JSON"),
        (TENSORS_FILE, b"[]", "format None, this release reads 2; run `msd tensors` again"),
        (TENSORS_FILE, b'{"format": 9}', "format 9, this release reads 2"),
        (TENSORS_FILE, b'{"format": 2}', "feature_schema: is missing"),
        (ADAPTORS_FILE, b"x", "not the adaptors of tensors.json; run `msd tensors` again"),
    ],
)
def test_rejects_damaged_tensor_folder(write: Write, name: str, content: bytes, message: str) -> None:
    folder = write(True)
    (folder / name).write_bytes(content)
    with pytest.raises(TensorFolderError, match=message):
        load_adaptors(folder, load_record(folder))


def test_rejects_folder_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(TensorFolderError, match="no tensors here"):
        load_record(tmp_path)
    with pytest.raises(TensorFolderError, match=r"has no test-\*.safetensors"):
        read_part(tmp_path, "test")


def test_tensors_command_rewrites_missing_files(tiny: Dataset, tiny_folder: Path, tmp_path: Path, run: Run) -> None:
    out, student = tmp_path / "out", write_student(tmp_path / "student", word_vectors(tiny))
    command = ("tensors", tiny_folder, out, "--student", student)
    code, said = run(*command)
    assert (code, "train," in said, "test rows" in said) == (0, True, True)
    assert load_record(out).student == word_vectors(tiny).student
    assert run(*command) == (0, f"{out}: done before, nothing to do")
    lost = next(out.glob("valid-*.safetensors"))
    content = lost.read_bytes()
    lost.unlink()
    assert run(*command)[0] == 0
    assert lost.read_bytes() == content
    code, said = run("tensors", tiny_folder, out)
    assert (code, load_record(out).student) == (0, None)


def test_tensors_command_rejects_other_folders(tiny_folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    code, said = run("tensors", tiny_folder, tmp_path)
    assert code == 2
    assert "holds other things than a dataset's tensors" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["world", "plain_world"])
@pytest.mark.parametrize("part", list(Part))
def test_network_scores_event_tensors_like_a_batch(name: str, part: Part, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    events, model = world.features.of_part(part)[:60], world.model.eval()
    features = model.adaptors.adapt(world.features)
    assert bool(features.adapted) == (name == "world")
    with torch.no_grad():
        expected = batch_logits(model, world.features, events)
        tensors = event_tensors(features, events)
        found = model.ranker(tensors)
    specs = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert specs == {spec.name: (f"torch.{spec.dtype}", (len(events), *spec.shape)) for spec in world.schema.tensors}
    np.testing.assert_allclose(found, expected, atol=1e-5)
