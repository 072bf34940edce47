"""What a log leaves open is a question on a terminal, and without one an error that names the option."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msd.dataset.load import load_dataset
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from msd.dataset.problem import Doubt, InitError
from tests.dataset.odd.columns import MEANINGS
from tests.dataset.odd.notations import ENCODINGS, NUMBERS
from tests.dataset.odd.world import OddLog
from tests.service.live import run_msd

LOGS = {log.name: log for log in (*NUMBERS, *ENCODINGS, *MEANINGS)}


def written(log: OddLog, folder: Path) -> Path:
    return log.write(log.frame(), folder)


def test_a_terminal_is_asked(tmp_path: Path) -> None:
    log, out = written(LOGS["comma-in-doubt-decimal"], tmp_path), tmp_path / "out"
    log.write_text(log.read_text().replace("time", "served", 1))
    ours, theirs = pty.openpty()
    os.write(ours, b"served\n,\n")
    command = [sys.executable, "-m", "msd", "data", "init", str(log), str(out)]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "no name says which column is the impression's time, and these hold times: served." in done.stdout
    assert "price: '159,108' is 159.108 or 159108, and nothing else in the file tells which" in done.stdout
    assert load_dataset(out).items["price"].max() == LOGS["comma-in-doubt-decimal"].frame()["price"].max()


def test_without_a_terminal_the_error_names_the_option(tmp_path: Path) -> None:
    log, out = written(LOGS["comma-in-doubt-decimal"], tmp_path), tmp_path / "out"
    done = run_msd("data", "init", str(log), str(out))
    assert done.returncode == 2
    assert "tells which; give --decimal , or --decimal ." in re.sub(r"\s+", " ", done.stderr)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "question", "choices"),
    [
        ("one-odd-byte", "row 701: is not text in UTF-8, and may hold 'Ørs' (cp1252) or 'Řrs' (cp1250)", "cp1252"),
        ("slot-by-shape", "slot: counts within each request, and may be the ad's position", "slot none"),
        ("point-in-doubt", "'159.108' is 159108 or 159.108, and nothing else in the file tells which", ", ."),
    ],
)
def test_questions_name_what_is_open(tmp_path: Path, name: str, question: str, choices: str) -> None:
    with pytest.raises(Doubt) as doubt:
        init_dataset(SourceFiles(written(LOGS[name], tmp_path)), tmp_path / "out", {})
    assert question in str(doubt.value)
    assert list(doubt.value.choices)[: len(choices.split())] == choices.split()
    if name == "one-odd-byte":
        assert "or convert it: iconv -f CP1252 -t UTF-8 log.csv > new" in str(doubt.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "latin-99"}, "--encoding latin-99: is unknown; such as latin-1, cp1252, utf-16 are known"),
        ({"encoding": "ascii"}, "is not text in ASCII (a byte is 0xfc): save it as UTF-8, as `iconv -f ENCODING"),
        ({"position": "where"}, "--position where: the requests lack this column; they have device, site"),
    ],
)
def test_refuses_answers_that_do_not_fit(tmp_path: Path, options: Mapping[str, str], message: str) -> None:
    with pytest.raises(InitError) as error:
        init_dataset(SourceFiles(written(LOGS["latin-1"], tmp_path)), tmp_path / "out", {}, **options)  # type: ignore[arg-type]
    assert message in str(error.value)


ADS = [{"ad_id": "a1", "clicked": 1}, {"ad_id": "a2", "clicked": 0}]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"ads": ADS, "offers": ADS}, "ads and offers both hold lists of objects, so it is open what a row is"),
        ({"ads": [{"more": ADS}]}, "ads.more holds a list of objects within another: write an impression a row"),
        ({"user.id": "u1", "user": {"id": "u2"}}, "has user.id twice, once nested: rename it"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_nested_logs_of_unclear_rows_are_refused(
    tmp_path: Path, record: Mapping[str, Any], message: str, ending: str
) -> None:
    path = tmp_path / f"log.{ending}"
    if ending == "jsonl":
        path.write_text(json.dumps(record) + "\n")
    else:
        pl.DataFrame([record]).write_parquet(path)
    with pytest.raises(InitError) as error:
        init_dataset(SourceFiles(path), tmp_path / "out", {})
    assert (message in str(error.value)) or ("user.id" in record and "beside the nested one" in str(error.value))


def test_what_was_read_is_said(tmp_path: Path) -> None:
    log = written(LOGS["latin-1"], tmp_path)
    draft, _ = init_dataset(SourceFiles(log), tmp_path / "out", {})
    assert draft.notes == ["read as cp1252, which makes words such as Zürich, Köln, Düsseldorf; else --encoding NAME"]
    assert f"# {draft.notes[0]}" in (tmp_path / "out" / "dataset.toml").read_text()
