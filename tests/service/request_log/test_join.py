"""From a real service to a dataset that loads: what it logged of requests and events is what `msd join` reads."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from msd.contract.bundle import Bundle
from msd.dataset.load import load_dataset
from tests.service.live import live_service, run_msd, wait_until
from tests.service.request_log.log import connected

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


def write_dataset(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dataset.toml").write_text(CONFIG, "utf-8")
    items = "".join(f"i{number},Ad {number},games\n" for number in range(300))
    (folder / "items.csv").write_text(f"item_id,title,category\n{items}", "utf-8")
    events = "".join(f"u{number % 20},i{number},{AT - 9_999 + number},{number % 2},7\n" for number in range(200))
    (folder / "events.csv").write_text(f"user_id,item_id,at,label,hour\n{events}", "utf-8")
    return folder


def test_served_logged_joined(bundle: Bundle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "log_flush_seconds": 0.2, "workers": 2}
    settings |= {"live": "on", "state_dir": tmp_path / "state"}
    rng = np.random.default_rng(0)
    with live_service(bundle.folder, tmp_path, **settings) as service:
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
    old = write_dataset(tmp_path / "old")
    ended = run_msd("join", str(tmp_path / "log"), "--dataset", str(old), "--out", str(tmp_path / "new"))
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "80 of 80 impressions and 10 of 10 clicks joined to" in " ".join(ended.stdout.split())
    dataset = load_dataset(tmp_path / "new")
    fresh = dataset.events.filter(pl.col("at") >= AT)
    assert (fresh.height, fresh["label"].sum(), dataset.events.height) == (80, 10, 280)
    assert set(fresh["hour"].to_list()) == {str(hour) for hour in range(24)}
    cold = dataset.items.filter(pl.col("item_id") == "cold")
    assert cold.select("text", "category").row(0) == ("A new ad", "books")

    ended = run_msd("join", str(tmp_path / "log"), "--by", "arm")
    assert ended.returncode == 0, ended.stderr
    assert "champion" in ended.stdout
