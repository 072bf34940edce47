"""A tuned model holds its own student, which evaluation and training find there; why one is not tuned is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.ranker.features import build_features
from msd.student.encoder import encode_texts, load_student
from msd.student.record import VECTOR_DIM
from msd.student.record import WEIGHTS_FILE as STUDENT_WEIGHTS_FILE
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors, save_vectors
from msd.training.folder import (
    RECORD_FILE,
    STUDENT_FOLDER,
    WEIGHTS_FILE,
    ModelFolderError,
    load_ranker,
    student_of,
    vectors_of,
)
from msd.training.train import predict
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import Run


def test_the_folder_holds_the_student_and_the_record_says_what_tuning_gave(student: Path, lora_models: Path) -> None:
    tuned, untuned = lora_models / "tuned", lora_models / "untuned"
    _, record = load_ranker(tuned)
    assert record.tuning is not None
    assert record.student == load_vectors(student).student
    assert record.own_student == load_vectors(tuned / STUDENT_FOLDER).student != record.student
    assert record.tuning.valid_auc == max(point.valid_auc for point in record.tuning.curve)
    assert record.tuning.valid_auc > record.tuning.valid_auc_before == record.curve[0].valid_auc
    assert (record.tuning.config["rank"], record.tuning.epoch) == (8, 1)
    assert record.tuning.seconds > 0
    assert sorted(one.name for one in tuned.iterdir()) == sorted(
        [RECORD_FILE, WEIGHTS_FILE, STUDENT_FOLDER, "step.json"]
    )
    assert load_ranker(untuned)[1].tuning is None
    assert not (untuned / STUDENT_FOLDER).exists()


def test_the_models_own_student_makes_its_vectors(tiny: Dataset, student: Path, lora_models: Path) -> None:
    _, record = load_ranker(lora_models / "tuned")
    encoder = load_student(student_of(lora_models / "tuned", record, student))
    vectors = vectors_of(lora_models / "tuned", record, load_vectors(student))
    for texts, level in zip(student_texts(tiny), (vectors.items, vectors.users), strict=True):
        np.testing.assert_allclose(encode_texts(encoder, [texts[one] for one in level.ids]), level.vectors, atol=1e-5)
    _, record = load_ranker(lora_models / "untuned")
    assert student_of(lora_models / "untuned", record, student) == student
    assert vectors_of(lora_models / "untuned", record, vectors) is vectors


def test_each_model_is_measured_with_the_vectors_of_its_own_student(
    tiny: Dataset, tiny_folder: Path, student: Path, lora_models: Path, tmp_path: Path, run: Run
) -> None:
    options = [part for name in ("untuned", "tuned") for part in ("--model", lora_models / name)]
    code, said = run("evaluate", tiny_folder, student, tmp_path, *options, "--resamples", "100")
    assert code == 0, said
    results = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("untuned", "tuned"):
        model, record = load_ranker(lora_models / name)
        vectors = vectors_of(lora_models / name, record, load_vectors(student))
        features = build_features(tiny, model.schema, vectors)
        scores = predict(model, features, features.of_part(Part.TEST))
        ratio = results["models"][name]["metrics"]["predicted_over_observed"]
        assert ratio == pytest.approx(scores.mean() / features.labels.numpy()[features.of_part(Part.TEST)].mean())


def test_another_student_in_the_models_folder_is_refused(
    tiny_folder: Path, student: Path, lora_models: Path, tmp_path: Path, run: Run
) -> None:
    model = tmp_path / "tuned"
    shutil.copytree(lora_models / "tuned", model)
    shutil.rmtree(model / STUDENT_FOLDER)
    shutil.copytree(student, model / STUDENT_FOLDER)
    with pytest.raises(ModelFolderError, match=r"another student than the one of ranker\.json; train again"):
        vectors_of(model, load_ranker(model)[1], load_vectors(student))
    code, said = run("evaluate", tiny_folder, student, tmp_path / "out", "--model", model)
    assert (code, "Traceback" in said) == (2, False)


def test_a_finished_tuning_is_skipped_and_a_lost_student_made_again(
    tiny_folder: Path, student: Path, lora_models: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "tuned"
    shutil.copytree(lora_models / "tuned", out)
    command = ("train", tiny_folder, student, out, "--epochs", "1")
    assert run(*command) == (0, f"{out}: done before, nothing to do")
    shutil.rmtree(out / STUDENT_FOLDER)
    code, said = run(*command)
    assert (code, "done before" in said) == (0, False)
    assert load_ranker(out)[1].own_student == load_ranker(lora_models / "tuned")[1].own_student
    assert "with the student tuned" in said

    assert run(*command, "--no-lora")[0] == 0
    assert not (out / STUDENT_FOLDER).exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--no-semantics",), "a model without semantics does not read the student's vectors"),
        (("--network", "lr"), "lr is a baseline, not MSD's own network"),
    ],
)
def test_why_a_student_is_not_tuned_is_said(
    options: tuple[str, ...], reason: str, tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    code, said = run("train", tiny_folder, student, tmp_path / "out", "--epochs", "1", *options)
    assert code == 0
    assert f"the student stays as it is: {reason}" in said
    _, record = load_ranker(tmp_path / "out")
    assert record.tuning is None
    assert record.config.network == ("lr" if "lr" in options else "msd")


def test_what_tuning_lacks_is_told_before_training(
    tiny: Dataset, tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    other = write_tiny_dataset(tmp_path / "other", users=20)
    shutil.copytree(student, cut := tmp_path / "cut")
    (cut / STUDENT_WEIGHTS_FILE).unlink()
    for data, teacher, message in (
        (other, student, "vectors of 16 users without a text in the dataset, such as 'u21'; distil again"),
        (tiny_folder, cut, "no such file, the student is incomplete; distil again"),
    ):
        code, said = run("train", data, teacher, tmp_path / "out", "--epochs", "1")
        assert (code, message in said) == (2, True), said
        assert not (tmp_path / "out").exists()


def test_items_without_texts_leave_the_student_as_it_is(
    tiny: Dataset, tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    bare = tmp_path / "student"
    shutil.copytree(student, bare)
    vectors = load_vectors(student)
    nothing = LevelVectors([], np.zeros((0, VECTOR_DIM), np.float32))
    save_vectors(StudentVectors(vectors.student, nothing, vectors.users), bare)
    code, said = run("train", tiny_folder, bare, tmp_path / "out", "--epochs", "1")
    assert code == 0, said
    assert "the student stays as it is: no item has a text" in said
