"""`msd train` and `msd evaluate`: finished steps are skipped; what does not belong together is refused, by name."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from msd.__main__ import main
from msd.contract.errors import MsdError
from msd.contract.files import held_folder
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.evaluation.present_scores import ScoresFileError, read_scores
from msd.ranker.features import build_features
from msd.student.vectors import StudentVectors, load_vectors
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, load_ranker
from msd.training.train import predict
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import Run, word_vectors, write_student


@pytest.fixture(scope="module")
def models(tiny_folder: Path, semantic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models: with semantics, and without."""
    plain = tmp_path_factory.mktemp("models") / "plain"
    with pytest.raises(SystemExit, match="0"):
        main(["train", str(tiny_folder), str(plain), "--no-semantics", "--epochs", "1"])
    return [semantic_model, plain]


def test_training_leaves_only_the_model(models: list[Path]) -> None:
    for folder, semantics in zip(models, (True, False), strict=True):
        model, record = load_ranker(folder)
        assert ("item" in model.adaptors) == semantics
        assert len(record.curve) == 1
        assert sorted(path.name for path in folder.iterdir()) == sorted([RECORD_FILE, WEIGHTS_FILE, "step.json"])


def test_finished_training_is_skipped_until_damaged_or_an_option_changes(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "semantic"
    shutil.copytree(models[0], out)
    command = ("train", tiny_folder, student, out, "--epochs", "1")
    assert run(*command) == (0, f"{out}: done before, nothing to do")
    (out / WEIGHTS_FILE).write_bytes(b"\x00" * 100)
    code, output = run(*command)
    assert (code, "done before" in output) == (0, False)
    assert (out / WEIGHTS_FILE).read_bytes() == (models[0] / WEIGHTS_FILE).read_bytes()
    code, output = run(*command, "--seed", "1")
    assert (code, "done before" in output) == (0, False)
    assert load_ranker(out)[1].training["seed"] == 1


def test_evaluation_measures_models_and_baseline_once(
    tiny: Dataset, tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    options = [*(part for model in models for part in ("--model", model)), "--resamples", "100"]
    out = tmp_path / "figures"
    code, output = run("evaluate", tiny_folder, student, out, *options)
    assert code == 0
    assert "180 test rows" in output
    results = json.loads((out / "evaluation.json").read_text())
    assert list(results["models"]) == ["semantic", "plain", "regression", "counts"]
    assert results["rows"] == {"window": 900, "train": 540, "valid": 180, "test": 180}
    for figures in results["models"].values():
        assert set(figures["metrics"]) >= {"auc", "gauc", "uauc", "logloss", "ece"}
        assert sum(one["impressions"] for one in figures["calibration"]) == 180
    assert [point["epoch"] for point in results["models"]["plain"]["curve"]] == [1]
    for folder in models:
        model, _ = load_ranker(folder)
        features = build_features(tiny, model.schema, load_vectors(student))
        test = features.of_part(Part.TEST)
        ratio = results["models"][folder.name]["metrics"]["predicted_over_observed"]
        expected = predict(model, features, test).mean() / features.labels.numpy()[test].mean()
        assert ratio == pytest.approx(expected)

    code, output = run("evaluate", tiny_folder, student, out, *options)
    assert "done before, nothing to do" in output
    assert "180 test rows" in output
    page = (out / "report.html").read_text()
    for lost in ("evaluation.json", "report.html"):
        (out / lost).unlink()
        assert "done before" not in run("evaluate", tiny_folder, student, out, *options)[1]
        assert json.loads((out / "evaluation.json").read_text()) == results
        assert (out / "report.html").read_text() == page


def test_models_have_their_given_names(
    tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models[1], "a=b")
    given = [f"ours[/]={models[0]}", f"plain={models[1]}", "a=b"]
    options = [part for model in given for part in ("--model", model)]
    code, output = run("evaluate", tiny_folder, student, "figures", *options, "--resamples", "100")
    assert code == 0
    assert "ours[/]" in output
    assert "AUC of plain less that of a=b: +0.0000" in output
    assert "intervals: paired bootstrap over users, 100 resamples" in output
    results = json.loads(Path("figures/evaluation.json").read_text())
    assert list(results["models"]) == ["ours[/]", "plain", "a=b", "regression", "counts"]
    assert results["resamples"] == 100


def test_rejects_another_dataset_or_student(
    tiny: Dataset, tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    other = write_tiny_dataset(tmp_path / "other", seed=1)
    vectors = word_vectors(tiny)
    stranger = write_student(tmp_path / "stranger", StudentVectors("e" * 64, vectors.items, vectors.users))
    for data, teacher in ((other, student), (tiny_folder, stranger)):
        code, output = run("evaluate", data, teacher, tmp_path / "out", "--model", models[0])
        assert code == 2
        reason = f"error: {models[0]}: was trained on another dataset or student than {data} and its student"
        assert output.endswith(reason)
    assert not (tmp_path / "out").exists()


def test_student_is_optional_without_semantics_but_recorded(
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


def test_rejects_output_folder_with_other_things(tiny_folder: Path, student: Path, tmp_path: Path, run: Run) -> None:
    own = tmp_path / "student"
    shutil.copytree(student, own)
    for out in (tmp_path, own):
        code, output = run("train", tiny_folder, own, out, "--epochs", "1")
        message = f"{out} holds other things than a model; name an empty or a new folder"
        assert (code, message in output) == (2, True), output
    assert sorted(path.name for path in own.iterdir()) == sorted(path.name for path in student.iterdir())


def test_one_training_fills_a_folder(tiny_folder: Path, tmp_path: Path, run: Run) -> None:
    with held_folder(tmp_path, MsdError("it is free")):
        code, output = run("train", tiny_folder, tmp_path, "--no-semantics")
    assert (code, "another training runs there" in output) == (2, True), output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/model", "b/model"), "must differ and not be regression, counts, "),
        (("counts",), "must differ and not be regression, counts, "),
        (("counts=semantic",), "must differ and not be regression, counts, "),
        (("ours=semantic", "ours=plain"), "both called 'ours', were trained with the same seed, 0"),
    ],
)
def test_rejects_models_of_one_name(
    names: tuple[str, ...],
    message: str,
    tiny_folder: Path,
    student: Path,
    models: list[Path],
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/model", "b/model", "regression", "counts", "semantic", "plain"):
        shutil.copytree(models[name == "plain"], tmp_path / name)
    options = [part for name in names for part in ("--model", name)]
    code, output = run("evaluate", tiny_folder, student, tmp_path / "out", *options)
    assert (code, message in output) == (2, True), output


def test_rejects_wrong_folders_before_training(tiny_folder: Path, student: Path, tmp_path: Path, run: Run) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    count = "expected 3 folders, DATASET STUDENT OUT, or with --no-semantics 2, DATASET OUT; got "
    for arguments, message in (
        (("train", tiny_folder, out), f"{count}2"),
        (("train", tiny_folder, student, out, out), f"{count}4"),
        (("train", nowhere, student, out), "no such folder"),
        (("train", tiny_folder, nowhere, out), "student.json: no such file"),
        (("train", tiny_folder, student, student / "ids.json"), "is a file; name a folder for the model"),
        (("evaluate", tiny_folder, student, out, "--model", nowhere), "no trained model here"),
        (("evaluate", tiny_folder, student, student / "ids.json", "--model", nowhere), "no trained model here"),
    ):
        code, output = run(*arguments)
        assert (code, message in output, "Traceback" in output) == (2, True, False), output
    assert not out.exists()


def test_present_models_scores_are_compared_on_the_test_rows(
    tiny: Dataset, tiny_folder: Path, student: Path, models: list[Path], tmp_path: Path, run: Run
) -> None:
    test = tiny.events.filter(pl.Series(split_events(tiny.events, tiny.config)) == Part.TEST)
    given = test.select("user_id", "item_id", "at", score=0.2 + 0.5 * pl.col("label")).sort("item_id")
    given.write_csv(tmp_path / "now.csv")
    options = ["--model", models[1], "--scores", tmp_path / "now.csv", "--resamples", "100"]
    code, output = run("evaluate", tiny_folder, student, tmp_path / "figures", *options)
    assert code == 0, output
    found = json.loads((tmp_path / "figures/evaluation.json").read_text())
    assert found["models"]["now"]["metrics"]["auc"] == 1.0
    assert "use now: " in output
    assert "against the best other, now: logloss +" in output


@pytest.mark.parametrize(
    ("score", "rows", "message"),
    [
        ("0.5", 5, "now.csv: has no score for 175 of 180 test rows, first for {'user_id': "),
        ("1.5", 180, "now.csv: holds a score outside 0 to 1; give probabilities of a click"),
        ("high", 180, "now.csv, row 1, score: 'high' is not a number"),
        (None, 180, "now.csv: has no column score; expected user_id, item_id, at, score"),
    ],
)
def test_rejects_unusable_scores(tiny: Dataset, tmp_path: Path, score: str | None, rows: int, message: str) -> None:
    test = tiny.events.filter(pl.Series(split_events(tiny.events, tiny.config)) == Part.TEST)
    given = test.head(rows).select("user_id", "item_id", "at")
    (given if score is None else given.with_columns(score=pl.lit(score))).write_csv(tmp_path / "now.csv")
    with pytest.raises(ScoresFileError, match=re.escape(message)):
        read_scores(tmp_path / "now.csv", test)
