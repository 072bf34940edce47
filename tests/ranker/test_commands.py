"""`msd train` and `msd evaluate`: finished steps are skipped; what does not belong together is refused, by name."""

import json
import shutil
from pathlib import Path

import pytest

from msd.__main__ import main
from msd.dataset.load import Dataset
from msd.student.vectors import StudentVectors
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, load_ranker
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import Run, word_vectors, write_student


@pytest.fixture(scope="module")
def student(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "student", word_vectors(tiny))


@pytest.fixture(scope="module")
def models(tiny_folder: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for line in ((student, folder / "semantic", "--no-lora"), (folder / "plain", "--no-semantics")):
        with pytest.raises(SystemExit, match="0"):
            main(["train", str(tiny_folder), *map(str, line), "--epochs", "1"])
    return [folder / "semantic", folder / "plain"]


def test_training_leaves_a_model_and_no_work(models: list[Path]) -> None:
    for folder, semantics in zip(models, (True, False), strict=True):
        model, record = load_ranker(folder)
        assert ("item" in model.adaptors) == semantics
        assert len(record.curve) == 1
        assert sorted(one.name for one in folder.iterdir()) == sorted([RECORD_FILE, WEIGHTS_FILE, "step.json"])


def test_a_finished_training_is_skipped_until_an_option_changes(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "semantic"
    shutil.copytree(models[0], out)
    command = ("train", tiny_folder, student, out, "--epochs", "1", "--no-lora")
    assert run(*command) == (0, f"{out}: done before, nothing to do")
    code, said = run(*command, "--seed", "1")
    assert (code, "done before" in said) == (0, False)
    assert load_ranker(out)[1].training["seed"] == 1


def test_a_damaged_model_is_trained_again(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "semantic"
    shutil.copytree(models[0], out)
    (out / WEIGHTS_FILE).write_bytes(b"\x00" * 100)
    code, said = run("train", tiny_folder, student, out, "--epochs", "1", "--no-lora")
    assert (code, "done before" in said) == (0, False)
    assert (out / WEIGHTS_FILE).read_bytes() == (models[0] / WEIGHTS_FILE).read_bytes()


def test_evaluation_measures_every_model_and_the_baseline(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    options = [*(part for model in models for part in ("--model", model)), "--resamples", "100"]
    out = tmp_path / "figures"
    code, said = run("evaluate", tiny_folder, student, out, *options)
    assert code == 0
    assert "180 test rows" in said
    results = json.loads((out / "evaluation.json").read_text())
    assert list(results["models"]) == ["semantic", "plain", "counts"]
    assert results["rows"] == {"window": 900, "train": 540, "valid": 180, "test": 180}
    for figures in results["models"].values():
        assert set(figures["metrics"]) >= {"auc", "gauc", "uauc", "logloss", "ece"}
        assert sum(one["impressions"] for one in figures["calibration"]) == 180
    assert [point["epoch"] for point in results["models"]["plain"]["curve"]] == [1]

    code, said = run("evaluate", tiny_folder, student, out, *options)
    assert "done before, nothing to do" in said
    assert "180 test rows" in said
    page = (out / "report.html").read_text()
    for lost in ("evaluation.json", "report.html"):
        (out / lost).unlink()
        assert "done before" not in run("evaluate", tiny_folder, student, out, *options)[1]
        assert json.loads((out / "evaluation.json").read_text()) == results
        assert (out / "report.html").read_text() == page


def test_models_have_the_names_they_are_given(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models[1], "a=b")
    given = [f"ours[/]={models[0]}", f"plain={models[1]}", "a=b"]
    options = [part for model in given for part in ("--model", model)]
    code, said = run("evaluate", tiny_folder, student, "figures", *options, "--resamples", "100")
    assert code == 0
    assert "ours[/]" in said
    assert "AUC of plain less that of a=b: +0.0000" in said
    assert "intervals: paired bootstrap over users, 100 resamples" in said
    results = json.loads(Path("figures/evaluation.json").read_text())
    assert list(results["models"]) == ["ours[/]", "plain", "a=b", "counts"]
    assert results["resamples"] == 100


def test_one_name_for_two_models_of_one_seed_is_refused(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    options = [part for model in models for part in ("--model", f"ours={model}")]
    code, said = run("evaluate", tiny_folder, student, tmp_path / "out", *options)
    assert code == 2
    assert "both called 'ours', were trained with the same seed, 0" in said
    code, said = run("evaluate", tiny_folder, student, tmp_path / "out", "--model", f"counts={models[0]}")
    assert code == 2
    assert "must differ and not be counts, " in said


def test_another_dataset_or_student_is_refused(
    tiny: Dataset, tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    other = write_tiny_dataset(tmp_path / "other", seed=1)
    vectors = word_vectors(tiny)
    stranger = write_student(tmp_path / "stranger", StudentVectors("e" * 64, vectors.items, vectors.users))
    for data, teacher in ((other, student), (tiny_folder, stranger)):
        code, said = run("evaluate", data, teacher, tmp_path / "out", "--model", models[0])
        assert code == 2
        reason = f"error: {models[0]}: was trained on another dataset or student than {data} and its student"
        assert said.endswith(reason)
    assert not (tmp_path / "out").exists()


def test_without_semantics_no_student_is_needed_and_one_that_is_given_counts(
    tiny: Dataset, tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    assert load_ranker(models[1])[1].student is None
    out = tmp_path / "plain"
    shutil.copytree(models[1], out)
    vectors = word_vectors(tiny)
    other = write_student(tmp_path / "student", StudentVectors("e" * 64, vectors.items, vectors.users))
    assert run("evaluate", tiny_folder, other, tmp_path / "figures", "--model", out)[0] == 0
    assert run("train", tiny_folder, other, out, "--epochs", "1", "--no-semantics")[0] == 0
    assert load_ranker(out)[1].student == "e" * 64
    assert (out / WEIGHTS_FILE).read_bytes() == (models[1] / WEIGHTS_FILE).read_bytes()
    assert run("evaluate", tiny_folder, student, tmp_path / "figures", "--model", out)[0] == 2


@pytest.mark.parametrize("folders", [("model",), ("student", "model", "one too many")])
def test_too_few_or_too_many_folders_are_counted(
    folders: tuple[str, ...], tiny_folder: Path, tmp_path: Path, run: Run
) -> None:
    code, said = run("train", tiny_folder, *(tmp_path / name for name in folders))
    assert code == 2
    assert "expected 3 folders, DATASET STUDENT OUT, or with --no-semantics 2, DATASET OUT" in said
    assert f"got {len(folders) + 1}" in said


def test_training_into_a_folder_of_other_things_is_refused(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    """It clears its folder: what lies in `student` there must not be the student that it was given."""
    own = tmp_path / "student"
    shutil.copytree(student, own)
    shutil.copytree(models[0], model := tmp_path / "model")
    shutil.copytree(student, model / "student")
    for given, out, message in (
        (student, tmp_path, f"{tmp_path} holds other things than a model; name an empty or a new folder"),
        (own, own, f"{own} holds other things than a model"),
        (own, tmp_path, f"{own} is where {tmp_path} keeps a student of its own; name another folder"),
        (model / "student", model, f"is where {model} keeps a student of its own; name another folder for the model"),
    ):
        code, said = run("train", tiny_folder, given, out, "--epochs", "1")
        assert (code, message in said) == (2, True), said
    assert all(sorted((folder / "student").iterdir()) for folder in (tmp_path, model))


@pytest.mark.parametrize("names", [("a/model", "b/model"), ("counts",)])
def test_models_of_one_name_are_refused(
    names: tuple[str, ...], tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    options: list[str | Path] = []
    for name in names:
        shutil.copytree(models[0], tmp_path / name)
        options += ["--model", tmp_path / name]
    code, said = run("evaluate", tiny_folder, student, tmp_path / "out", *options)
    assert code == 2
    assert "must differ and not be counts, " in said


def test_missing_folders_are_named(tiny_folder: Path, student: Path, tmp_path: Path, run: Run) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments, message in (
        (("train", nowhere, student, tmp_path / "out"), "no such folder"),
        (("train", tiny_folder, nowhere, tmp_path / "out"), "student.json: no such file"),
        (("evaluate", tiny_folder, student, tmp_path / "out", "--model", nowhere), "no trained model here"),
        (("train", tiny_folder, student, student / "ids.json"), "is a file; name a folder for the model"),
        (("evaluate", tiny_folder, student, student / "ids.json", "--model", nowhere), "no trained model here"),
    ):
        code, said = run(*arguments)
        assert code == 2, said
        assert message in said
        assert "Traceback" not in said
