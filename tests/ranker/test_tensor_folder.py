"""The folder of tensors holds every row once, in shares, and what was fitted for it comes back as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker import tensor_folder
from msd.ranker.features import build_features
from msd.ranker.tensor_folder import (
    ADAPTORS_FILE,
    RECORD_FILE,
    TensorFolderError,
    adapt_all,
    event_tensors,
    load_adaptors,
    load_record,
    read_part,
    write_tensors,
)
from tests.ranker.made import Run, World, word_vectors, write_student

Write = Callable[[bool], Path]


@pytest.fixture
def write(world: World, tmp_path: Path) -> Write:
    def go(semantics: bool) -> Path:
        folder = tmp_path / "tensors"
        write_tensors(world.dataset, world.vectors, semantics, folder, lambda *_: None)
        return folder

    return go


@pytest.mark.parametrize("semantics", [True, False])
def test_every_row_of_every_part_is_there_in_order(
    world: World, write: Write, semantics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_folder, "ROWS", 100)
    folder = write(semantics)
    record = load_record(folder)
    features = build_features(world.dataset, record.feature_schema, world.vectors)
    adapted = adapt_all(load_adaptors(folder, record), features)
    assert ("item_semantic" in {spec.name for spec in record.feature_schema.tensors}) == semantics
    for name, parts in {"train": (Part.WINDOW, Part.TRAIN), "valid": (Part.VALID,), "test": (Part.TEST,)}.items():
        events = features.of_part(*parts)
        found, expected = read_part(folder, name), event_tensors(features, adapted, events)
        assert len(found["label"]) == len(events) == record.rows[name]
        assert torch.equal(found.pop("label"), features.labels[events])
        assert torch.equal(found.pop("user"), features.user.rows[events].long())
        assert torch.equal(found.pop("impressions"), features.impressions[events])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    shares = sorted(folder.glob("train-*.safetensors"))
    assert len(shares) == -(-record.rows["train"] // 100) > 1
    assert all(len(load_file(path)["label"]) <= 100 for path in shares)


def test_a_second_writing_leaves_nothing_of_the_first(write: Write) -> None:
    folder = write(True)
    (folder / "train-00007.safetensors").write_bytes(b"old")
    write(False)
    assert not (folder / "train-00007.safetensors").exists()
    assert not (folder / ADAPTORS_FILE).exists()
    assert load_record(folder).student is None


def test_the_record_names_the_student_and_the_dataset(world: World, write: Write) -> None:
    record = load_record(write(True))
    assert record.student == world.vectors.student
    assert record.dataset == world.dataset.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (RECORD_FILE, b"{", "not JSON"),
        (RECORD_FILE, b"[]", "format None, this release reads 1; run `msd tensors` again"),
        (RECORD_FILE, b'{"format": 9}', "format 9, this release reads 1"),
        (RECORD_FILE, b'{"format": 1}', "feature_schema: is missing"),
        (ADAPTORS_FILE, b"x", "not the adaptors of tensors.json; run `msd tensors` again"),
    ],
)
def test_a_damaged_folder_is_refused(write: Write, name: str, content: bytes, message: str) -> None:
    folder = write(True)
    (folder / name).write_bytes(content)
    with pytest.raises(TensorFolderError, match=message):
        load_adaptors(folder, load_record(folder))


def test_a_folder_without_tensors_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TensorFolderError, match="no tensors here"):
        load_record(tmp_path)
    with pytest.raises(TensorFolderError, match=r"has no test-\*.safetensors"):
        read_part(tmp_path, "test")


def test_the_command_writes_once_and_again_if_something_is_missing(
    tiny: Dataset, tiny_folder: Path, tmp_path: Path, run: Run
) -> None:
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


def test_the_command_leaves_other_things_alone(tiny_folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    code, said = run("tensors", tiny_folder, tmp_path)
    assert code == 2
    assert "holds other things than tensors" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
