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
from msd.ranker.features import build_features
from msd.student.encoder import Student, encode_texts, load_student
from msd.student.record import VECTOR_DIM, StudentError
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors
from msd.training.finetune import Tuned, save_own_student
from msd.training.train import predict, predict_logits
from tests.ranker.tuned import TUNE, Untuned, untuned_of

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


def test_tuning_ranks_valid_better_and_says_from_where_it_came(untuned: Untuned, both: tuple[Tuned, Student]) -> None:
    tuned, _ = both
    rows = untuned.features.of_part(Part.VALID)
    labels = untuned.features.labels.numpy()[rows]
    before = roc_auc_score(labels, predict_logits(untuned.ranker, untuned.features.live(), rows))
    assert tuned.valid_auc_before == pytest.approx(before)
    assert tuned.epoch > 0
    assert tuned.valid_auc == max(point.valid_auc for point in tuned.curve) > before


def test_cached_vectors_are_those_that_the_saved_student_makes_of_raw_texts(untuned: Untuned, saved: Path) -> None:
    student, cached = load_student(saved), load_vectors(saved)
    for texts, level, was in zip(
        student_texts(untuned.dataset),
        (cached.items, cached.users),
        (untuned.vectors.items, untuned.vectors.users),
        strict=True,
    ):
        online = encode_texts(student, [texts[one] for one in level.ids])
        np.testing.assert_allclose(online, level.vectors, atol=1e-5)
        assert level.ids == was.ids
        assert abs(level.vectors - was.vectors).max() > 1e-3


def test_the_saved_vectors_give_the_scores_that_were_calibrated(
    untuned: Untuned, both: tuple[Tuned, Student], saved: Path
) -> None:
    tuned, _ = both
    features = build_features(untuned.dataset, untuned.features.schema, load_vectors(saved)).live()
    rows = features.of_part(Part.VALID)
    labels = features.labels.numpy()[rows]
    assert abs(roc_auc_score(labels, predict_logits(tuned.ranker, features, rows)) - tuned.valid_auc) < 1e-4
    assert abs(predict(tuned.ranker, features, rows).mean() - labels.mean()) < 0.03


def test_the_student_says_that_it_was_tuned(saved: Path) -> None:
    record = load_student(saved).record
    assert record.objective["tuned"]["rank"] == TUNE.rank
    assert record.metrics == {}


def test_nothing_given_is_changed(untuned: Untuned, both: tuple[Tuned, Student]) -> None:
    again = build_features(untuned.dataset, untuned.features.schema, untuned.vectors)
    assert torch.equal(untuned.features.item.vectors, again.item.vectors)
    assert torch.equal(untuned.features.user.vectors, again.user.vectors)
    assert not torch.equal(untuned.ranker.ranker.head.weight, both[0].ranker.ranker.head.weight)


def test_tuning_that_only_harms_leaves_all_as_it_was(untuned: Untuned, tmp_path: Path) -> None:
    student, wild = untuned.student(), replace(TUNE, steps=8, learning_rate=5.0, ranker_learning_rate=1.0)
    tuned = untuned.tune(tmp_path / "checkpoint.safetensors", wild, student)
    assert tuned.epoch == 0
    assert tuned.valid_auc == tuned.valid_auc_before
    assert max(point.valid_auc for point in tuned.curve) < tuned.valid_auc
    for name, value in untuned.ranker.state_dict().items():
        assert torch.equal(tuned.ranker.state_dict()[name], value), name
    np.testing.assert_allclose(tuned.items.vectors, untuned.vectors.items.vectors, atol=1e-6)
    expected = untuned.student().state_dict()
    for name, value in student.state_dict().items():
        assert torch.equal(value, expected[name]), name


class Cut(Exception):
    """A run ends here, as if it were killed."""


@pytest.fixture(scope="module")
def uncut(untuned: Untuned, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return untuned.tune(tmp_path_factory.mktemp("uncut") / "checkpoint.safetensors", SHORT)


@pytest.mark.parametrize("cut_at", [(1, 2), (2, 3)])
def test_a_run_that_was_cut_ends_like_one_that_was_not(
    cut_at: tuple[int, int], untuned: Untuned, uncut: Tuned, tmp_path: Path
) -> None:
    def progress(epoch: int, step: int, loss: float) -> None:
        if (epoch, step) == cut_at:
            raise Cut

    with pytest.raises(Cut):
        untuned.tune(tmp_path / "checkpoint.safetensors", SHORT, progress=progress)
    tuned, whole = untuned.tune(tmp_path / "checkpoint.safetensors", SHORT), uncut
    assert tuned.curve == whole.curve
    np.testing.assert_array_equal(tuned.items.vectors, whole.items.vectors)
    for name, value in whole.ranker.state_dict().items():
        assert torch.equal(tuned.ranker.state_dict()[name], value), name


def test_an_epoch_ends_after_the_steps_it_may_take(untuned: Untuned, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    untuned.tune(
        tmp_path / "checkpoint.safetensors",
        replace(TUNE, steps=3),
        progress=lambda epoch, step, loss: heard.append((epoch, step)),
    )
    assert heard == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]


def test_without_user_texts_in_a_step_items_alone_are_tuned(untuned: Untuned, tmp_path: Path) -> None:
    tuned = untuned.tune(tmp_path / "checkpoint.safetensors", replace(SHORT, users=0, epochs=1))
    assert abs(tuned.curve[0].valid_auc - tuned.valid_auc_before) > 0


def test_users_without_texts_are_no_hindrance(untuned: Untuned, tmp_path: Path) -> None:
    nothing = LevelVectors([], untuned.vectors.users.vectors[:0])
    vectors = StudentVectors(untuned.vectors.student, untuned.vectors.items, nothing)
    features = build_features(untuned.dataset, untuned.features.schema, vectors)
    tuned = replace(untuned, vectors=vectors, features=features).tune(
        tmp_path / "checkpoint.safetensors", replace(SHORT, epochs=1)
    )
    assert tuned.users.vectors.shape == (0, VECTOR_DIM)
    assert abs(tuned.curve[0].valid_auc - tuned.valid_auc_before) > 0


def test_a_vector_without_its_text_is_an_error(untuned: Untuned, tmp_path: Path) -> None:
    items = untuned.vectors.items
    stranger = LevelVectors([*items.ids[1:], "elsewhere"], items.vectors)
    strange = replace(untuned, vectors=StudentVectors("e" * 64, stranger, untuned.vectors.users))
    with pytest.raises(StudentError, match=r"vectors of 1 items without a text.*'elsewhere'.*distil again"):
        strange.tune(tmp_path / "checkpoint.safetensors")
