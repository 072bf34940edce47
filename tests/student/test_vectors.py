"""Vectors are found by id, come back from disk bit by bit, and are refused beside another student."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from msd.student.record import RECORD_FILE, VECTOR_DIM, BertConfig, StudentError, StudentRecord
from msd.student.vectors import IDS_FILE, VECTORS_FILE, LevelVectors, StudentVectors, load_vectors, save_vectors


def _level(ids: list[str], seed: int) -> LevelVectors:
    return LevelVectors(ids, np.random.default_rng(seed).normal(size=(len(ids), VECTOR_DIM)).astype(np.float32))


def _vectors(student: str = "f" * 64) -> StudentVectors:
    return StudentVectors(student, _level(["1", "two", "é☕"], 0), _level(["1"], 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record = StudentRecord(start="a test", max_tokens=128, bert=BertConfig(), fingerprint="f" * 64)
    (tmp_path / RECORD_FILE).write_text(record.model_dump_json())
    save_vectors(_vectors(), tmp_path)
    return tmp_path


@given(asked=st.lists(st.sampled_from(["1", "two", "é☕", "unknown", ""]), max_size=8))
def test_gather_returns_each_ids_vector(asked: list[str]) -> None:
    vectors = _vectors()
    array, present = vectors.gather("items", asked)
    assert array.shape == (len(asked), VECTOR_DIM)
    assert array.dtype == np.float32
    for name, row, there in zip(asked, array, present, strict=True):
        assert there == (name in vectors.items.ids)
        expected = vectors.items.vectors[vectors.items.ids.index(name)] if there else np.zeros(VECTOR_DIM)
        assert np.array_equal(row, expected)


def test_levels_are_separate_and_may_be_empty(folder: Path) -> None:
    vectors = _vectors()
    assert not np.array_equal(vectors.gather("items", ["1"])[0], vectors.gather("users", ["1"])[0])
    assert vectors.gather("users", ["two"])[1].tolist() == [False]
    save_vectors(StudentVectors("f" * 64, _level(["1"], 0), _level([], 0)), folder)
    array, present = load_vectors(folder).gather("users", ["a", "b"])
    assert not array.any()
    assert not present.any()


def test_vectors_round_trip(folder: Path) -> None:
    loaded, saved = load_vectors(folder), _vectors()
    for level in ("items", "users"):
        assert getattr(loaded, level).ids == getattr(saved, level).ids
        assert np.array_equal(getattr(loaded, level).vectors, getattr(saved, level).vectors)


def test_rejects_vectors_and_ids_of_another_student(folder: Path) -> None:
    ids = json.loads((folder / IDS_FILE).read_text())
    (folder / IDS_FILE).write_text(json.dumps({**ids, "student": "0" * 64}))
    with pytest.raises(StudentError, match="made by another student"):
        load_vectors(folder)
    save_vectors(_vectors("0" * 64), folder)
    with pytest.raises(StudentError, match=f"{VECTORS_FILE}: made by another student"):
        load_vectors(folder)


@pytest.mark.parametrize("name", [VECTORS_FILE, IDS_FILE, RECORD_FILE])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StudentError, match=f"{name}: no such file"):
        load_vectors(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format"),
        ('{"format": 9}', "format 9, this release reads 2"),
        ('{"format": 2, "student": "x"}', "items: is missing"),
        ('{"format": 2, "student": "x", "items": 3, "users": []}', "items: should be a valid array"),
        ('{"format": 2, "student": "x", "items": ["a", "a"], "users": []}', "items: has an id twice"),
    ],
)
def test_rejects_faulty_ids(folder: Path, text: str, message: str) -> None:
    (folder / IDS_FILE).write_text(text)
    with pytest.raises(StudentError, match=message):
        load_vectors(folder)


def test_rejects_damaged_arrays(folder: Path) -> None:
    whole = (folder / IDS_FILE).read_text()
    (folder / IDS_FILE).write_text(json.dumps({**json.loads(whole), "items": ["1", "two"]}))
    with pytest.raises(StudentError, match=r"items: float32 \[3, 512\], but ids\.json has 2 ids"):
        load_vectors(folder)
    (folder / IDS_FILE).write_text(whole)
    data = (folder / VECTORS_FILE).read_bytes()
    (folder / VECTORS_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(StudentError, match="damaged"):
        load_vectors(folder)
    save_file({"items": np.zeros((3, VECTOR_DIM), np.float32)}, folder / VECTORS_FILE, {"student": "f" * 64})
    with pytest.raises(StudentError, match="users"):
        load_vectors(folder)
