"""Tuning changes the student with the ranker, keeps the best epoch, and leaves vectors that any encoder would make."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import Student, encode_texts, load_student
from msd.student.record import VECTOR_DIM
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors
from msd.training.finetune import CachedTexts, LiveVectors, Tuned, save_own_student
from msd.training.train import predict, predict_logits
from tests.ranker.made import TUNE, Cut, Untuned, assert_same_weights, cut_at, new_small_student, untuned_of

SHORT = replace(TUNE, steps=6)


@pytest.fixture(scope="module")
def untuned(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Untuned:
    return untuned_of(tiny, tmp_path_factory.mktemp("untuned"))


@pytest.fixture(scope="module")
def both(untuned: Untuned, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Student]:
    student = untuned.student()
    return untuned.tune(tmp_path_factory.mktemp("tuned") / "checkpoint.safetensors", student=student), student


@pytest.fixture(scope="module")
def saved(both: tuple[Tuned, Student], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tuned, student = both
    folder = tmp_path_factory.mktemp("saved") / "student"
    save_own_student(folder, student, tuned, TUNE)
    return folder


def test_tuning_improves_valid_auc(untuned: Untuned, both: tuple[Tuned, Student]) -> None:
    tuned, _ = both
    rows = untuned.features.of_part(Part.VALID)
    labels = untuned.features.labels.numpy()[rows]
    before = roc_auc_score(labels, predict_logits(untuned.ranker, untuned.features.live(), rows))
    assert tuned.valid_auc_before == pytest.approx(before)
    assert tuned.epoch > 0
    assert tuned.valid_auc == max(point.valid_auc for point in tuned.curve) > before


def test_cached_vectors_equal_the_saved_students(untuned: Untuned, saved: Path) -> None:
    student, cached = load_student(saved), load_vectors(saved)
    assert student.record.objective["tuned"]["rank"] == TUNE.rank
    assert student.record.metrics == {}
    for texts, level, was in zip(
        student_texts(untuned.dataset),
        (cached.items, cached.users),
        (untuned.vectors.items, untuned.vectors.users),
        strict=True,
    ):
        online = encode_texts(student, [texts[id_] for id_ in level.ids])
        np.testing.assert_allclose(online, level.vectors, atol=1e-5)
        assert level.ids == was.ids
        assert abs(level.vectors - was.vectors).max() > 1e-3


def test_saved_vectors_give_calibrated_scores(untuned: Untuned, both: tuple[Tuned, Student], saved: Path) -> None:
    tuned, _ = both
    features = build_features(untuned.dataset, untuned.features.schema, load_vectors(saved)).live()
    rows = features.of_part(Part.VALID)
    labels = features.labels.numpy()[rows]
    assert abs(roc_auc_score(labels, predict_logits(tuned.ranker, features, rows)) - tuned.valid_auc) < 1e-4
    assert abs(predict(tuned.ranker, features, rows).mean() - labels.mean()) < 0.03


def test_tuning_leaves_its_inputs_unchanged(untuned: Untuned, both: tuple[Tuned, Student]) -> None:
    again = build_features(untuned.dataset, untuned.features.schema, untuned.vectors)
    assert torch.equal(untuned.features.item.vectors, again.item.vectors)
    assert torch.equal(untuned.features.user.vectors, again.user.vectors)
    assert not torch.equal(untuned.ranker.ranker.head.weight, both[0].ranker.ranker.head.weight)


def test_harmful_tuning_restores_everything(untuned: Untuned, tmp_path: Path) -> None:
    student, wild = untuned.student(), replace(TUNE, steps=8, learning_rate=5.0, ranker_learning_rate=1.0)
    tuned = untuned.tune(tmp_path / "checkpoint.safetensors", wild, student)
    assert tuned.epoch == 0
    assert tuned.valid_auc == tuned.valid_auc_before
    assert max(point.valid_auc for point in tuned.curve) < tuned.valid_auc
    assert_same_weights(tuned.ranker, untuned.ranker)
    np.testing.assert_allclose(tuned.items.vectors, untuned.vectors.items.vectors, atol=1e-6)
    assert_same_weights(student, untuned.student())


@pytest.fixture(scope="module")
def uncut(untuned: Untuned, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return untuned.tune(tmp_path_factory.mktemp("uncut") / "checkpoint.safetensors", SHORT)


@pytest.mark.parametrize("at", [(1, 2), (2, 3)])
def test_resumed_run_equals_uninterrupted_run(
    at: tuple[int, int], untuned: Untuned, uncut: Tuned, tmp_path: Path
) -> None:
    with pytest.raises(Cut):
        untuned.tune(tmp_path / "checkpoint.safetensors", SHORT, progress=cut_at(*at))
    tuned = untuned.tune(tmp_path / "checkpoint.safetensors", SHORT)
    assert tuned.curve == uncut.curve
    np.testing.assert_array_equal(tuned.items.vectors, uncut.items.vectors)
    assert_same_weights(tuned.ranker, uncut.ranker)


def test_epoch_ends_after_its_steps(untuned: Untuned, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    untuned.tune(
        tmp_path / "checkpoint.safetensors",
        replace(TUNE, steps=3),
        progress=lambda epoch, step, loss: heard.append((epoch, step)),
    )
    assert heard == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]


def test_tunes_items_without_user_texts_in_a_step(untuned: Untuned, tmp_path: Path) -> None:
    tuned = untuned.tune(tmp_path / "checkpoint.safetensors", replace(SHORT, users=0, epochs=1))
    assert abs(tuned.curve[0].valid_auc - tuned.valid_auc_before) > 0


def test_tunes_without_texts_of_users(untuned: Untuned, tmp_path: Path) -> None:
    nothing = LevelVectors([], untuned.vectors.users.vectors[:0])
    vectors = StudentVectors(untuned.vectors.student, untuned.vectors.items, nothing)
    features = build_features(untuned.dataset, untuned.features.schema, vectors)
    tuned = replace(untuned, vectors=vectors, features=features).tune(
        tmp_path / "checkpoint.safetensors", replace(SHORT, epochs=1)
    )
    assert tuned.users.vectors.shape == (0, VECTOR_DIM)
    assert abs(tuned.curve[0].valid_auc - tuned.valid_auc_before) > 0


@pytest.fixture(scope="module")
def student(tiny: Dataset) -> Student:
    return new_small_student(tiny)


@pytest.fixture(scope="module")
def vectors(tiny: Dataset, student: Student) -> StudentVectors:
    """Of all texts but the first item's."""
    levels = []
    for texts in student_texts(tiny):
        ids = [text for text in texts if text != "1"]
        levels.append(LevelVectors(ids, encode_texts(student, [texts[id_] for id_ in ids])))
    return StudentVectors("s" * 64, *levels)


@pytest.fixture
def features(tiny: Dataset, vectors: StudentVectors) -> Features:
    return build_features(tiny, fit_schema(tiny), vectors)


@pytest.fixture
def texts(tiny: Dataset, features: Features, vectors: StudentVectors, student: Student) -> CachedTexts:
    return CachedTexts(features.item, vectors.items, student_texts(tiny)[0], student, frozen=1)


def test_draws_rows_with_texts_once(features: Features, texts: CachedTexts) -> None:
    without, unknown = features.item.entities.place["1"], features.item.entities.unknown
    rows = np.array([3, 3, without, 5, unknown, 7], np.int64)
    assert set(texts.draw(rows, 9, np.random.default_rng(0))) == {3, 5, 7}
    assert len(texts.draw(rows, 2, np.random.default_rng(0))) == 2
    assert len(texts.draw(np.array([without, unknown]), 9, np.random.default_rng(0))) == 0


def test_fresh_vectors_are_the_students_and_others_cached(
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


def test_gradients_pass_only_through_fresh_vectors(features: Features, texts: CachedTexts, student: Student) -> None:
    weight = dict(student.named_parameters())["encoder.bert.encoder.layer.1.output.dense.weight"]
    live = LiveVectors(features.item, texts, student, np.array([3]))
    for row, reached in ((3, True), (4, False)):
        weight.grad = None
        torch.autograd.backward(live(torch.tensor([row, 3]))[0, 0] * 1.0, retain_graph=True)
        assert (weight.grad is not None and bool(weight.grad.any())) == reached
    student.zero_grad()


def test_refreshed_features_have_new_vectors(features: Features, texts: CachedTexts) -> None:
    made = np.arange(len(texts.ids) * VECTOR_DIM, dtype=np.float32).reshape(-1, VECTOR_DIM)
    fresh = texts.refreshed(features.item, made)
    place = features.item.entities.place
    for text, name in enumerate(texts.ids):
        assert torch.equal(fresh.vectors[place[name]], torch.from_numpy(made[text]))
    for row in (place["1"], features.item.entities.unknown):
        assert not fresh.vectors[row].any()
    assert not torch.equal(fresh.vectors, features.item.vectors)
