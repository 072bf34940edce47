"""A whole night whose teacher is down goes on with the words of before, and its record says so."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.dataset.load import load_dataset
from msd.teachers.knowledge import load_knowledge
from msd.teachers.teacher import ModelServer
from tests.dataset.tiny import START
from tests.e2e.conftest import USERS, Pipeline
from tests.feedback.made import requests
from tests.service.live import run_msd
from tests.student.small import short_student
from tests.teachers.chat_server import ChatServer

COUNT, NEW = 300, 12
CONFIG = """
logs = ["logs"]
dataset = {dataset}
knowledge = "words"
work = "work"
bundles = "bundles"
teach = {teach}
train = ["--epochs", "1"]
export = ["--requests", "5"]

[window]
days = 1000
settle_hours = 0

[input]
impressions = 100
click_rate = 1000
"""


def write_log(folder: Path) -> None:
    """Requests for new ads that they describe, half of which are clicked."""
    folder.mkdir(parents=True)
    rows, rng = list[dict[str, Any]](), np.random.default_rng(0)
    for number in range(COUNT):
        user, items = f"u{1 + number % USERS}", [f"new{number % NEW}", "3"]
        described = {items[0]: {"text": f"A new kind of ad, number {number % NEW}."}}
        body = {"user_id": user, "candidates": {"id": items}, "items": described}
        own = {"request_id": f"r{number}", "user_id": user, "item_ids": items, "request": json.dumps(body).encode()}
        at = START + 100 * 86_400.0 + number
        rows.append({**own, "at": at, "received_at": at, "bids": None, "scores": [[0.3, 0.2]], "heads": ["pctr"]})
    log = requests(*rows)
    log.write_parquet(folder / "requests-0.parquet")
    shown = log.select("request_id", "user_id", pl.col("item_ids").list.first().alias("item_id"), "at")
    kinds = (("impression", shown), ("click", shown.filter(pl.Series(rng.random(COUNT) < 0.5))))
    events = [one.with_columns(event_id=pl.col("request_id"), type=pl.lit(kind)) for kind, one in kinds]
    pl.concat(events).write_parquet(folder / "events-0.parquet")


def test_night_without_a_teacher_goes_on_with_earlier_words(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd.student.step.new_student", short_student)
    monkeypatch.setattr("msd.teachers.command.ModelServer", partial(ModelServer, pause=0.001))
    with ChatServer() as server:
        teach = ["--teacher", "openai_compatible", "--url", server.url, "--model", "m"]
        run_msd("teach", str(pipeline.dataset), str(tmp_path / "words"), *teach)
    words = load_knowledge(tmp_path / "words")
    write_log(tmp_path / "logs")
    shutil.copytree(pipeline.bundle, tmp_path / "bundles/first")
    run_msd("rollback", str(tmp_path / "bundles"), "--to", "first")
    config = CONFIG.format(dataset=json.dumps(str(pipeline.dataset)), teach=json.dumps(teach))
    (tmp_path / "nightly.toml").write_text(config, "utf-8")

    done = run_msd("nightly", str(tmp_path / "nightly.toml"), "--night", "down")

    night = tmp_path / "work/nights/down"
    record = json.loads((night / "nightly.json").read_text())
    assert (record["status"], done.returncode) in (("promoted", 0), ("kept", 3)), done.stdout + done.stderr
    assert "without an answer: the connection failed" in done.stderr
    (note,) = record["notes"]
    assert "went on without some or all new words" in note
    assert list(record["steps"])[:5] == ["join", "teach", "distill", "train", "export"]
    assert all(cost["cpu_seconds"] > 0 for cost in record["steps"].values())
    assert record["verdict"]["impressions"] > 0
    new = set(load_dataset(night / "dataset").items["item_id"]) - set(load_dataset(pipeline.dataset).items["item_id"])
    assert len(new) == NEW
    assert words.items.keys().isdisjoint(new), "nobody was asked about them"
