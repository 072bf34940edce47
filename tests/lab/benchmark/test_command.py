"""`msd lab benchmark`: from the files to the JSON and the table; wrong options are one message."""

import json
from pathlib import Path

import pytest

from lab.benchmark import command
from lab.benchmark.collm import COLLM
from msd.__main__ import main
from tests.lab.benchmark.made import USERS, quick, write_collm

VARIANTS = ("ours", "ours_without_semantics", "regression", "lr", "bag_of_words")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CoLLM split; its protocol is made quick."""
    monkeypatch.setitem(command.BENCHMARKS, "collm-ml-1m", quick(COLLM))
    return write_collm(tmp_path / "data")


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["lab", "benchmark", *map(str, arguments)])
    printed = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    assert "Traceback" not in printed.out + printed.err
    return code, " ".join((printed.out + printed.err).split())


def test_benchmark_ends_in_json_and_a_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    models = [option for name in VARIANTS for option in ("--model", name)]
    scope = ("--seeds", "2", "--delay", "600", "--resamples", "100", *models)
    code, printed = _run(capsys, "collm-ml-1m", data, out, *scope)
    assert code == 0, printed
    assert "collm-ml-1m: valid, live_600_s" in printed
    assert all(name in printed for name in ("regression", "bag_of_words", "ours gains"))
    figures = json.loads(out.read_text())
    assert figures["benchmark"] == "collm-ml-1m"
    assert figures["part"] == "valid"
    lines = figures["views"]["live_600_s"]["lines"]
    assert list(figures["views"]) == ["live_600_s"]
    assert lines.keys() == set(VARIANTS)
    (row,) = (line for line in out.read_text().splitlines() if '"auc"' in line and '"regression": ' in line)
    assert json.loads("{" + row.strip().rstrip(",") + "}") == {"regression": lines["regression"]}
    assert 0.5 < lines["regression"]["auc"] < 1
    assert lines["regression"]["gains"]["request_auc"].keys() == {"gain", "ci95"}
    assert set(figures["seconds"]) == set(VARIANTS)
    assert figures["machine"]["versions"]["torch"]
    assert {name: line["seeds"] for name, line in lines.items()} == {
        name: 1 if name == "bag_of_words" else 2 for name in VARIANTS
    }
    assert figures["protocol"]["rows"] == {"0": USERS * 8, "1": USERS * 8}
    assert figures["protocol"]["sha256"] == command.BENCHMARKS["collm-ml-1m"].sha256()
    assert figures["gain_test"] == "paired bootstrap over users and seeds together, 100 resamples"
    assert (tmp_path / "out.work" / "collm-ml-1m" / "predictions" / "ours-1-600.npz").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("movies", "{data}", "{out}"), "no benchmark 'movies'; there are collm-ml-1m"),
        (("collm-ml-1m", "nowhere", "{out}"), "nowhere: no such folder; DATASET is"),
        (("collm-ml-1m", "{data}", "{out}", "--model", "fm"), "there is no model fm; there are ours, ours_without"),
        (("collm-ml-1m", "{data}", "{out}", "--delay", "60"), "there is no delay 60; there are 0, 600, 86400"),
        (("collm-ml-1m", "{data}", "{data}"), "is a folder; OUT is the file"),
        (
            ("collm-ml-1m", "{data}", "{out}", "--work", "{data}/items.parquet"),
            "items.parquet is a file; name a folder with --work",
        ),
    ],
)
def test_rejects_invalid_options(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    given = [option.format(data=data, out=tmp_path / "out.json") for option in options]
    code, printed = _run(capsys, *given)
    assert code == 2
    assert message in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
