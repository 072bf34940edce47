"""From a real service to a dataset that loads: what it logged of requests and events is what `msd join` reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.contract.bundle import Bundle
from msd.dataset.load import load_dataset
from msd.feedback.files import JUDGE_COLUMNS, read_requests
from msd.feedback.scored_bundle import ScoredBundle
from tests.service.live import live_service, run_msd, wait_until
from tests.service.request_log.log import connected, records

CONFIG = """format = 1
name = "served"

[events]
file = "events.csv"

[items]
file = "items.csv"
text = "{title}"

[[features]]
name = "category"
side = "item"
kind = "categorical"

[[features]]
name = "hour"
side = "context"
kind = "categorical"
"""
AT = 1_764_066_000
OLD_NEW = {"champion": "old", "new": "new"}


def write_dataset(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dataset.toml").write_text(CONFIG, "utf-8")
    items = "".join(f"i{number},Ad {number},games\n" for number in range(300))
    (folder / "items.csv").write_text(f"item_id,title,category\n{items}", "utf-8")
    events = "".join(f"u{number % 20},i{number},{AT - 9_999 + number},{number % 2},7\n" for number in range(200))
    (folder / "events.csv").write_text(f"user_id,item_id,at,label,hour\n{events}", "utf-8")
    return folder


def write_experiment(folder: Path, bundles: dict[str, Bundle], weights: dict[str, float]) -> Path:
    folder.mkdir()
    for name, bundle in bundles.items():
        shutil.copytree(bundle.folder, folder / name)
    (folder / "current").symlink_to(next(iter(bundles)))
    arms = [{"name": name, "bundle": name, "weight": weight} for name, weight in weights.items()]
    (folder / "experiment.json").write_text(json.dumps({"salt": "s", "arms": arms}), "utf-8")
    return folder


def test_served_logged_replayed_joined(bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "LOG_FLUSH_S": 0.2, "workers": 2}
    settings |= {"live": "on", "state_dir": tmp_path / "state"}
    rng = np.random.default_rng(0)
    arms = {"champion": bundle, "new": other_bundle}
    bundles = write_experiment(tmp_path / "bundles", arms, {"champion": 3.0, "new": 1.0})
    with live_service(bundles, tmp_path, **settings) as service:
        connected(service)
        before = service.metric('msd_log_records_total{result="dropped"}')
        with service.client() as client:
            for number in range(40):
                ids = [f"i{place}" for place in rng.choice(300, 20, replace=False)]
                request = {
                    "user_id": f"u{number % 20}",
                    "at": AT + number,
                    "context": {"hour": number % 24},
                    "candidates": {"id": [*ids, "cold"], "bid": [1.5] * 21},
                    "items": {"cold": {"text": "A new ad", "features": {"category": "books"}}},
                    "top_k": 3,
                }
                reply = client.post("/v1/score", json=request).json()
                shown = {"user_id": request["user_id"], "request_id": reply["request_id"]}
                best = reply["candidates"]["id"][0]
                events = [
                    {"event_id": f"{number}", "type": "impression", "item_id": best, "at": AT + number + 1, **shown},
                    {"event_id": f"{number} cold", "type": "impression", "item_id": "cold", "at": AT + number, **shown},
                ]
                if number % 4 == 0:
                    events.append({**events[0], "type": "click", "at": AT + number + 30})
                assert client.post("/v1/events", json={"events": events}).status_code == 202
        wait_until(lambda: service.metric('msd_log_events_total{result="written"}') >= 80)
        dropped = service.metric('msd_log_records_total{result="dropped"}') - before
        assert service.terminate() == 0

    assert dropped == 0
    old, at_once = write_dataset(tmp_path / "old"), ("--settle-hours", "0")
    ended = run_msd("join", str(tmp_path / "log"), "--dataset", str(old), "--out", str(tmp_path / "new"), *at_once)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "80 of 80 impressions and 10 of 10 clicks joined to" in " ".join(ended.stdout.split())
    dataset = load_dataset(tmp_path / "new")
    fresh = dataset.events.filter(pl.col("at") >= AT)
    assert (fresh.height, fresh["label"].sum(), dataset.events.height) == (80, 10, 280)
    assert set(fresh["hour"].to_list()) == {str(hour) for hour in range(24)}
    cold = dataset.items.filter(pl.col("item_id") == "cold")
    assert cold.select("text", "category").row(0) == ("A new ad", "books")

    ended = run_msd("join", str(tmp_path / "log"), "--by", "arm", "--json", *at_once)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["sample_ratio"]["expected"] == {"champion": 0.75, "new": 0.25}
    assert found["sample_ratio"]["p"] > 0.001
    assert sum(found["sample_ratio"]["observed"].values()) == 20
    assert found["arms"]["champion"]["revenue"] + found["arms"]["new"]["revenue"] == pytest.approx(15)

    given = [option for name, arm in arms.items() for option in ("--bundle", f"{OLD_NEW[name]}={arm.folder}")]
    (tmp_path / "gate.toml").write_text("[gate]\nclicks = 5\nlatency = 100")
    ended = run_msd(
        "evaluate", str(tmp_path / "log"), *given, "--gate", str(tmp_path / "gate.toml"), "--json", *at_once
    )
    judged = json.loads(ended.stdout)
    assert ended.returncode == {"keep": 3, "unknown": 4}[judged["decision"]], "both know nothing of these clicks"
    assert (judged["impressions"], judged["clicks"], judged["refused"]) == (80, 10, {"old": 0, "new": 0})

    scorers = {name: ScoredBundle(arm.folder) for name, arm in arms.items()}
    for row in pl.concat(read_requests([tmp_path / "log"], JUDGE_COLUMNS)).iter_rows(named=True):
        scorer = scorers[row["arm"]]
        scores = scorer.score(row, scorer.state_of(row))
        assert scores is not None
        np.testing.assert_allclose(scores["pctr"], row["scores"][0], atol=1e-5)

    given = [option for arm in arms.values() for option in ("--bundle", str(arm.folder))]
    ended = run_msd("replay", str(tmp_path / "log"), *given, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    replayed = json.loads(ended.stdout)
    assert (replayed["skipped"], replayed["mismatches"], replayed["near"]) == ({}, 0, 0)
    live = [record for record in records(tmp_path / "log") if record.at >= AT]
    assert {record.arm for record in live} == {"champion", "new"}
    rows = {record.user_row for record in live if record.user_id == "u0"}
    assert len(rows) == 2, "live counts are in the rows, and change with events"
