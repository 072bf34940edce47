"""Texts with an encoding are drawn; fresh vectors stand in for cached ones, and they alone pass gradients on."""

import numpy as np
import pytest
import torch

from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import Student, encode_texts
from msd.student.record import VECTOR_DIM, StudentError
from msd.student.vectors import LevelVectors, StudentVectors
from msd.training.finetune import CachedTexts, LiveVectors
from tests.ranker.tuned import new_small_student


@pytest.fixture(scope="module")
def student(tiny: Dataset) -> Student:
    return new_small_student(tiny)


@pytest.fixture(scope="module")
def vectors(tiny: Dataset, student: Student) -> StudentVectors:
    """Of all texts but the first item's."""
    levels = []
    for texts in student_texts(tiny):
        ids = [one for one in texts if one != "1"]
        levels.append(LevelVectors(ids, encode_texts(student, [texts[one] for one in ids])))
    return StudentVectors("s" * 64, *levels)


@pytest.fixture
def features(tiny: Dataset, vectors: StudentVectors) -> Features:
    return build_features(tiny, fit_schema(tiny), vectors)


@pytest.fixture
def texts(tiny: Dataset, features: Features, vectors: StudentVectors, student: Student) -> CachedTexts:
    return CachedTexts(features.item, vectors.items, student_texts(tiny)[0], student, frozen=1)


def test_only_rows_with_a_text_are_drawn_and_each_once(features: Features, texts: CachedTexts) -> None:
    without, unknown = features.item.entities.place["1"], features.item.entities.unknown
    rows = np.array([3, 3, without, 5, unknown, 7], np.int64)
    assert set(texts.draw(rows, 9, np.random.default_rng(0))) == {3, 5, 7}
    assert len(texts.draw(rows, 2, np.random.default_rng(0))) == 2
    assert len(texts.draw(np.array([without, unknown]), 9, np.random.default_rng(0))) == 0


def test_fresh_vectors_are_the_students_and_others_the_caches(
    features: Features, texts: CachedTexts, student: Student
) -> None:
    features.item.vectors.zero_()
    live = LiveVectors(features.item, texts, student, np.array([5, 3]))
    found = live(torch.tensor([3, 4, 5, 3], dtype=torch.int32))
    expected = texts.states.all_vectors(student)[texts.text_of[[3, 5]]]
    np.testing.assert_allclose(found[[0, 2]].detach(), expected, atol=1e-6)
    assert torch.equal(found[0], found[3])
    assert not found[1].any()
    assert not features.item.vectors.any()
    live.keep()
    np.testing.assert_allclose(features.item.vectors[[3, 5]], expected, atol=1e-6)


def test_gradients_reach_the_student_through_fresh_vectors_alone(
    features: Features, texts: CachedTexts, student: Student
) -> None:
    weight = dict(student.named_parameters())["encoder.bert.encoder.layer.1.output.dense.weight"]
    live = LiveVectors(features.item, texts, student, np.array([3]))
    for row, reached in ((3, True), (4, False)):
        weight.grad = None
        torch.autograd.backward(live(torch.tensor([row, 3]))[0, 0] * 1.0, retain_graph=True)
        assert (weight.grad is not None and bool(weight.grad.any())) == reached
    student.zero_grad()


def test_without_rows_all_vectors_are_the_caches(features: Features, texts: CachedTexts, student: Student) -> None:
    live = LiveVectors(features.item, texts, student, np.array([], np.int64))
    rows = torch.arange(6)
    assert torch.equal(live(rows), features.item.vectors[rows])
    live.keep()


def test_refreshed_features_have_the_new_vectors_where_there_are_texts(features: Features, texts: CachedTexts) -> None:
    made = np.arange(len(texts.ids) * VECTOR_DIM, dtype=np.float32).reshape(-1, VECTOR_DIM)
    fresh = texts.refreshed(features.item, made)
    place = features.item.entities.place
    for text, name in enumerate(texts.ids):
        assert torch.equal(fresh.vectors[place[name]], torch.from_numpy(made[text]))
    for row in (place["1"], features.item.entities.unknown):
        assert not fresh.vectors[row].any()
    assert not torch.equal(fresh.vectors, features.item.vectors)


def test_a_vector_without_a_text_is_an_error(
    tiny: Dataset, features: Features, vectors: StudentVectors, student: Student
) -> None:
    lost = {one: text for one, text in student_texts(tiny)[0].items() if one != "2"}
    with pytest.raises(StudentError, match="vectors of 1 items without a text in the dataset, such as '2'"):
        CachedTexts(features.item, vectors.items, lost, student, frozen=1)
