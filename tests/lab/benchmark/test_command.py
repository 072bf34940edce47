"""`msd lab benchmark`: from the files to the JSON and the table; wrong options are one message."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.benchmark import command
from lab.benchmark.collm import COLLM
from lab.benchmark.ml_100k import ML_100K, ML_100K_COLD
from msd.__main__ import main
from tests.dataset.tiny import write_tiny_dataset
from tests.lab.benchmark.made import USERS, quick, write_collm, write_ml_100k_like

VARIANTS = ("ours", "ours_without_semantics", "counts_gbdt", "lr", "without_lora", "bag_of_words")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CoLLM split; its protocol is made quick."""
    monkeypatch.setitem(command.BENCHMARKS, "collm-ml-1m", quick(COLLM, *VARIANTS))
    return write_collm(tmp_path / "data")


def _said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    assert "Traceback" not in said.out + said.err
    return code, " ".join((said.out + said.err).split())


def test_a_benchmark_ends_in_json_and_a_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    options = ("collm-ml-1m", data, out, "--seeds", "2", "--resamples", "100")
    code, said = _said(capsys, "lab", "benchmark", *options)
    assert code == 0, said
    assert "collm-ml-1m: test" in said
    assert all(name in said for name in ("ours", "counts_gbdt", "bag_of_words", "ours gains"))
    figures = json.loads(out.read_text())
    assert figures["benchmark"] == "collm-ml-1m"
    assert 0.5 < figures["baselines"]["counts_gbdt"]["auc"] < 1
    assert set(figures["baselines"]) == {"ours_without_semantics", "counts_gbdt", "lr"}
    assert set(figures["ablations"]) == {"without_lora", "bag_of_words"}
    assert set(figures["seconds"]["a_seed"]) == set(VARIANTS)
    assert figures["seconds"]["all"] > figures["seconds"]["distilling"] > 0
    assert figures["machine"]["versions"]["torch"]
    assert figures["protocol"]["seeds"] == {
        name: [0] if name in ("without_lora", "bag_of_words") else [0, 1] for name in VARIANTS
    }
    assert figures["protocol"]["test_rows"] == {"0": USERS * 8, "1": USERS * 8}
    assert figures["protocol"]["sha256"] == command.BENCHMARKS["collm-ml-1m"].sha256()
    assert figures["protocol"]["test_looks"] == list(COLLM.looks)
    assert figures["gain_test"] == "paired bootstrap over users and seeds together, 100 resamples, two-sided"
    page = (tmp_path / "out.html").read_text()
    assert page.count("<svg") == 1
    assert f"AUC {figures['auc_mean']:.4f} over 2 seeds" in page
    work = tmp_path / "out.work" / "collm-ml-1m"
    assert (work / "predictions" / "ours-1.npz").is_file()

    made = {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")}
    out.unlink()
    assert _said(capsys, "evaluate", *options)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")} == made
    assert json.loads(out.read_text()) == figures


def test_the_first_seed_counts_where_their_number_is_the_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = replace(quick(ML_100K_COLD, "ours", "ours_without_semantics"), seeds=1)
    monkeypatch.setitem(command.BENCHMARKS, protocol.name, protocol)
    data, out = write_ml_100k_like(tmp_path / "data"), tmp_path / "out.json"
    code, said = _said(capsys, "lab", "benchmark", protocol.name, data, out, "--seed", "3", "--resamples", "100")
    assert code == 0, said
    assert json.loads(out.read_text())["protocol"]["seeds"] == {"ours": [3], "ours_without_semantics": [3]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("movies", "{data}", "{out}"), "no benchmark 'movies'; there are collm-ml-1m"),
        (("collm-ml-1m", "nowhere", "{out}"), "nowhere: no such folder; DATASET is"),
        (("collm-ml-1m", "{data}", "{data}"), "is a folder; OUT is the file"),
        (("collm-ml-1m", "{data}", "out.html"), "OUT must end in .json"),
        (
            ("collm-ml-1m", "{data}", "{out}", "--work", "{data}/items.parquet"),
            "items.parquet is a file; name a folder with --work",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_message(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    given = [option.format(data=data, out=tmp_path / "out.json") for option in options]
    code, said = _said(capsys, "lab", "benchmark", *given)
    assert code == 2
    assert message in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "lab", "benchmark", "--help")[1]
    assert [name for name in command.BENCHMARKS if name not in said] == []


def test_another_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_tiny_dataset(tmp_path / "tiny"), tmp_path / "out.json"
    code, said = _said(capsys, "lab", "benchmark", ML_100K.name, data, out)
    assert code == 2
    assert "holds the dataset 'tiny'; DATASET is the folder that `msd data ml-100k` wrote" in said
