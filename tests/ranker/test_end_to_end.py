"""The paper's network is trained with its student, resumes to the bit, and says what it cannot be trained on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import encode_texts, load_student, save_student
from msd.student.record import STUDENT_FOLDER, StudentError
from msd.student.vectors import UNTAUGHT_FILE, LevelVectors, StudentVectors, load_vectors, save_vectors, untaught_items
from msd.training.end_to_end import EndToEnd, StudentTexts
from msd.training.folder import NetworkInputs, TrainedNetwork, train_network
from msd.training.train import Progress, TrainConfig, TrainError, train_ranker
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import (
    CHECKPOINT,
    SHORT,
    SMALL,
    Cut,
    Run,
    assert_same_weights,
    cut_at,
    quiet,
    write_small_student,
)

PAPER = SMALL.model_copy(update={"network": "paper", "layers": 1})
TWICE = TrainConfig(epochs=2, patience=2, student_learning_rate=3e-3)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_tiny_dataset(tmp_path_factory.mktemp("few") / "dataset", users=10, items=30))


@pytest.fixture(scope="module")
def given(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_small_student(folder, few)
    return folder


def _features(dataset: Dataset, student: Path) -> Features:
    return build_features(dataset, fit_schema(dataset), load_vectors(student))


def _train(dataset: Dataset, student: Path, out: Path, show: Progress = quiet) -> TrainedNetwork:
    texts = StudentTexts.of(student, dataset)
    inputs = NetworkInputs(dataset.fingerprint, "of the given student", _features(dataset, student), texts)
    return train_network(out, "run", inputs, PAPER, TWICE, show)


@pytest.fixture(scope="module")
def trained(few: Dataset, given: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedNetwork]:
    out = tmp_path_factory.mktemp("trained")
    return out, _train(few, given, out)


def test_vectors_are_those_of_the_tuned_student(
    few: Dataset, given: Path, trained: tuple[Path, TrainedNetwork]
) -> None:
    out, (model, record) = trained
    tuned, before, texts = load_student(out / STUDENT_FOLDER), load_student(given), student_texts(few)
    assert record.student == tuned.record.fingerprint != before.record.fingerprint
    vectors = load_vectors(out / STUDENT_FOLDER)
    for level, of in zip((vectors.items, vectors.users), texts, strict=True):
        assert level.ids == list(of)
        np.testing.assert_allclose(level.vectors, encode_texts(tuned, list(of.values())), atol=1e-5)
        assert not np.allclose(level.vectors, encode_texts(before, list(of.values())), atol=1e-4)
    upper = [name for name, value in tuned.state_dict().items() if not torch.equal(value, before.state_dict()[name])]
    assert upper == [f"encoder.bert.encoder.layer.1.attention.self.{part}.weight" for part in ("query", "value")]
    assert not [name for name in model.state_dict() if name.startswith("lora")]
    assert len(untaught_items(out / STUDENT_FOLDER, texts[0]).ids) == 10
    assert not (out / "states").exists()


def test_resumed_run_equals_uninterrupted_run(
    few: Dataset, given: Path, trained: tuple[Path, TrainedNetwork], tmp_path: Path
) -> None:
    with pytest.raises(Cut):
        _train(few, given, tmp_path, cut_at(2, 3))
    seen: list[int] = []
    again = _train(few, given, tmp_path, lambda epoch, step, loss: seen.append(epoch))
    assert set(seen) == {2}
    assert_same_weights(again.model, trained[1].model)
    assert again.record.student == trained[1].record.student


def test_command_writes_the_student_and_later_commands_take_it(
    few: Dataset, given: Path, tmp_path: Path, run: Run
) -> None:
    out, line = tmp_path / "model", ("--network", "paper", "--epochs", "1")
    code, said = run("train", few.folder, given, out, *line)
    assert (code, f"its student is {out / STUDENT_FOLDER}; name that in later commands" in said) == (0, True), said
    assert sorted(path.name for path in out.iterdir()) == ["ranker.json", "step.json", "student", "weights.safetensors"]
    assert "done before" in run("train", few.folder, given, out, *line)[1]
    options = "--model", out, "--resamples", "100"
    code, said = run("evaluate", few.folder, given, tmp_path / "figures", *options)
    assert (code, "was trained on another dataset or student" in said) == (2, True), said
    code, said = run("evaluate", few.folder, out / STUDENT_FOLDER, tmp_path / "figures", *options)
    assert code == 0, said
    code, said = run("train", few.folder, out / STUDENT_FOLDER, out, *line)
    assert (code, "is where" in said) == (2, True), said


def test_command_says_what_is_missing(few: Dataset, given: Path, tmp_path: Path, run: Run) -> None:
    code, said = run("train", few.folder, tmp_path / "out", "--network", "paper", "--no-semantics")
    assert (code, "--network paper reads the texts' vectors" in said) == (2, True), said
    textless = tmp_path / "textless"
    textless.mkdir()
    nothing = LevelVectors([], np.zeros((0, 512), np.float32))
    save_vectors(StudentVectors(save_student(load_student(given), textless), nothing, nothing), textless)
    code, said = run("train", few.folder, textless, tmp_path / "out", "--network", "paper")
    assert (code, "no item has a text: --network paper has nothing to read" in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_student_of_other_texts_or_too_few_layers_is_refused(few: Dataset, given: Path, tmp_path: Path) -> None:
    features, texts = _features(few, given), StudentTexts.of(given, few)
    with pytest.raises(StudentError, match="has 2 layers, fewer than the 3 to tune; distil again"):
        EndToEnd.of(texts, features, 3, tmp_path)
    fewer = texts._replace(texts={**texts.texts, "item": {}})
    with pytest.raises(StudentError, match="29 items with a vector have no text in the dataset, such as '1'; distil"):
        EndToEnd.of(fewer, features, 1, tmp_path)


def _without_knowledge_or_history(dataset: Dataset, student: Path) -> tuple[Dataset, Features]:
    """As before any teacher, when the student's head for its words is zero, and of users seen for the first time."""
    untaught = load_student(student)
    torch.nn.init.zeros_(untaught.words.weight)
    torch.nn.init.zeros_(untaught.words.bias)
    levels = (LevelVectors(list(of), encode_texts(untaught, list(of.values()))) for of in student_texts(dataset))
    save_vectors(StudentVectors(save_student(untaught, student), *levels), student)
    (student / UNTAUGHT_FILE).unlink()
    made = _features(dataset, student)
    history, outcomes = torch.full_like(made.history, -1), torch.zeros_like(made.history_outcomes)
    return dataset, replace(made, history=history, history_outcomes=outcomes)


def _with_one_user(dataset: Dataset, student: Path) -> tuple[Dataset, Features]:
    alone = replace(dataset, events=dataset.events.with_columns(user_id=pl.lit("u1")))
    return alone, _features(alone, student)


@pytest.mark.parametrize("spare", [_without_knowledge_or_history, _with_one_user])
def test_poor_data_are_trained_on(
    spare: Callable[[Dataset, Path], tuple[Dataset, Features]], few: Dataset, given: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(given, student)
    dataset, features = spare(few, student)
    inputs = NetworkInputs(dataset.fingerprint, "given", features, StudentTexts.of(student, dataset))
    model, record = train_network(tmp_path / "out", "run", inputs, PAPER, SHORT, quiet)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert 0 < record.curve[0].train_loss < 2


def test_loss_that_is_no_number_ends_training(few: Dataset, given: Path, tmp_path: Path) -> None:
    features = _features(few, given)
    features.impressions[features.of_part(Part.TRAIN)] = torch.nan
    config = SMALL.model_copy(update={"network": "deepfm"})
    with pytest.raises(TrainError, match="the loss of epoch 1, step 1 is nan: are the numbers of the data sane?"):
        train_ranker(features, config, SHORT, tmp_path / CHECKPOINT, "run", quiet)
    assert not (tmp_path / CHECKPOINT).exists()
