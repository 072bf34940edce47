"""LoRA begins at nothing, trains the top layer alone, and leaves a student of the same form when it is merged."""

import copy

import numpy as np
import pytest
import torch

from msd.student.encoder import Student, encode_texts
from msd.student.lora import Lora
from msd.student.states import TextStates
from tests.student.small import small_student

TEXTS = ["console quest arcade", "beach flight mountain hotel", "guitar", "recipe oven spice baking concert"]


@pytest.fixture
def student() -> Student:
    return small_student(TEXTS)


def _moved(lora: Lora) -> Lora:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in lora.weights.values():
            weight.add_(0.05 * torch.randn_like(weight))
    return lora


def test_lora_begins_with_the_students_vectors_and_trains_the_top_layer(student: Student) -> None:
    before = encode_texts(student, TEXTS)
    lora = Lora(student, rank=4, layers=1)
    np.testing.assert_allclose(encode_texts(student, TEXTS), before, atol=1e-6)
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert lora.frozen == 1
    assert trained == set(lora.weights)
    assert all(".layer.1." in name and "lora_" in name for name in trained)
    # Two matrices for each of query, key, value, attention's output and the feed-forward part's two maps.
    assert len(trained) == 12
    assert {min(weight.shape) for weight in lora.weights.values()} == {4}


def test_gradients_reach_lora_through_cached_states(student: Student) -> None:
    lora = _moved(Lora(student, rank=4, layers=1))
    vectors = TextStates(student, TEXTS, lora.frozen).vectors(student, np.array([2, 0]))
    torch.autograd.backward(vectors[:, 0].sum())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in lora.weights.values())


@pytest.mark.parametrize("layers", [1, 2])
def test_merged_weights_give_the_same_vectors_and_frozen_ones_stay(student: Student, layers: int) -> None:
    before, weights = encode_texts(student, TEXTS), copy.deepcopy(student.state_dict())
    lora = _moved(Lora(student, rank=4, layers=layers))
    tuned = encode_texts(student, TEXTS)
    assert abs(tuned - before).max() > 1e-3
    lora.merge()
    np.testing.assert_allclose(encode_texts(student, TEXTS), tuned, atol=1e-6)
    merged = student.state_dict()
    assert {name: value.shape for name, value in merged.items()} == {n: value.shape for n, value in weights.items()}
    changed = {name for name, value in merged.items() if not torch.equal(value, weights[name])}
    assert all(name.endswith(".weight") and (".layer.1." in name or layers == 2) for name in changed)


def test_copied_weights_can_be_restored(student: Student) -> None:
    lora = _moved(Lora(student, rank=4, layers=1))
    kept, tuned = lora.copy(), encode_texts(student, TEXTS)
    _moved(lora)
    assert abs(encode_texts(student, TEXTS) - tuned).max() > 1e-3
    lora.set(kept)
    np.testing.assert_array_equal(encode_texts(student, TEXTS), tuned)
