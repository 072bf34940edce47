"""Differences of a student's upper layers give over stored states what the whole changed student gives."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from msd.student.encoder import Student, encode_texts
from msd.student.lora import Lora, TextStates, merge
from msd.student.record import StudentError
from tests.student.small import LAYERS, small_student

TEXTS = ("a film of a toy", "", "toy", "spy film " * 1_100, "☕ unknown words alone")


def _student() -> Student:
    return small_student(TEXTS).requires_grad_(False)


def _changed(layers: int) -> Lora:
    torch.manual_seed(1)
    lora = Lora(rank=4, layers=layers)
    for up in lora.up:
        torch.nn.init.normal_(up, std=0.2)
    return lora


@pytest.mark.parametrize("layers", [0, 1, LAYERS])
def test_upper_layers_over_stored_states_are_the_whole_student(layers: int, tmp_path: Path) -> None:
    student = _student()
    states = TextStates(student, TEXTS, layers, tmp_path / "states.npy")
    before = encode_texts(student, TEXTS)
    np.testing.assert_allclose(states.all_vectors(None), before, atol=1e-6)
    np.testing.assert_allclose(states.all_vectors(Lora(4, layers)), before, atol=1e-6)  # untrained
    lora = _changed(layers)
    tuned = states.all_vectors(lora)
    assert np.allclose(tuned, before, atol=1e-3) == (layers == 0)
    merge(student, lora, layers)
    np.testing.assert_allclose(encode_texts(student, TEXTS), tuned, atol=1e-5)


def test_gradients_reach_the_differences_alone(tmp_path: Path) -> None:
    student, lora = _student(), _changed(1)
    states = TextStates(student, TEXTS, 1, tmp_path / "states.npy")
    (states.vectors(lora, np.array([3, 0])) @ torch.randn(512)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.any() for weight in lora.parameters())
    assert all(weight.grad is None for weight in student.parameters())


class _Disk(NamedTuple):
    free: int


def test_too_small_a_disk_is_said_before_texts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Disk(1_000))
    with pytest.raises(StudentError, match=r"has 1,000 bytes free, but the texts' states need \d+,\d+"):
        TextStates(_student(), TEXTS, 1, tmp_path / "states.npy")
    assert not (tmp_path / "states.npy").exists()
