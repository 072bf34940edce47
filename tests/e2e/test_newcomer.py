"""A newcomer's logs, each from the file to a scored HTTP request, by the commands alone and without a teacher."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msd.__main__ import main
from msd.contract.bundle import open_bundle
from msd.demo.quickstart import RECORD_FILE
from tests.service.live import LiveService, live_service

START = 1_714_550_400
TOPICS = ("bread", "bicycles", "gardens", "winter coats", "music", "car loans", "travel", "shoes", "phones", "paint")


def aggregated(folder: Path) -> Path:
    """One row per headline, with counts, no user, and a column known only afterwards."""
    rows = [
        {
            "headline": f"{TOPICS[n % 10].capitalize()}: what nobody told you, part {n}",
            "format": ("video", "list", "story")[n % 3],
            "impressions": 10 + n % 5,
            "clicks": 1 + (n % 10 > 6) * 4,
            "winner": n % 10 > 6,
            "created_at": START + n * 600,
        }
        for n in range(240)
    ]
    pl.DataFrame(rows).write_csv(folder / "log.csv")
    return folder / "log.csv"


def in_parts(folder: Path) -> Path:
    """One row an impression, without a text, in packed parts by day."""
    draws = random.Random(4)
    rows = [
        {"user_id": f"u{n % 40}", "ad_id": f"a{draws.randrange(25)}", "ts": START + n * 60, "hour": n // 60 % 24}
        for n in range(2_000)
    ]
    for row in rows:
        row["click"] = int(draws.random() < (0.6 if int(str(row["ad_id"])[1:]) % 3 == 0 else 0.2))
    frame = pl.DataFrame(rows)
    for number in range(3):
        place = folder / "log" / f"day={number}"
        place.mkdir(parents=True)
        (place / "part.csv.gz").write_bytes(gzip.compress(frame.slice(number * 700, 700).write_csv().encode()))
    return folder / "log"


@pytest.fixture(params=["aggregated, with texts", "in packed parts, without"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, LiveService, Path]]:
    has_texts = request.param.startswith("aggregated")
    log, out = aggregated(tmp_path) if has_texts else in_parts(tmp_path), tmp_path / "out"
    asked = ("--no-user", "--item", "headline") if has_texts else ()
    with pytest.raises(SystemExit, match="0"):
        main(["quickstart", str(log), *asked, "--out", str(out), "--no-serve"])
    with live_service(out / "bundle", tmp_path, encoder="on" if has_texts else "auto") as service:
        yield request.param, service, out


def test_log_becomes_scores(served: tuple[str, LiveService, Path]) -> None:
    name, service, out = served
    manifest = open_bundle(out / "bundle").manifest
    assert manifest.provenance["teacher"] is None
    asked: dict[str, Any]
    if name.startswith("aggregated"):
        ids = [f"{TOPICS[n].capitalize()}: what nobody told you, part {n}" for n in (1, 8)]
        new = {"features": {"format": "list"}, "text": "Bread: another story. Format: list."}
        asked = {"user_id": None, "candidates": {"id": [*ids, "new"]}, "items": {"new": new}}
    else:
        ids = ["a0", "a1"]
        asked = {"user_id": "u1", "context": {"hour": 9}, "candidates": {"id": [*ids, "new"]}}
    found = json.loads((out / RECORD_FILE).read_text("utf-8"))
    printed = service.score(found["request"])
    unknown = {"user": "unknown"} if found["request"]["user_id"] is None else None
    assert (printed.status_code, printed.json().get("degraded")) == (200, unknown), printed.text
    assert [step for step in found["seconds"] if step != "distill"] == ["data", "train", "evaluate", "export"]
    assert found["verdict"].startswith("Verdict: ")
    reply = service.score(asked)
    assert reply.status_code == 200, json.dumps(reply.json())
    pctr = dict(zip(asked["candidates"]["id"], reply.json()["candidates"]["pctr"], strict=True))
    assert all(0 < score < 1 for score in pctr.values())
    assert set(reply.json()["degraded"]["candidates"]) == {"new"}
    # The clicks were drawn so; whoever learned anything knows it.
    better, worse = (ids[1], ids[0]) if name.startswith("aggregated") else (ids[0], ids[1])
    assert pctr[better] > pctr[worse]


def test_log_with_problems_is_known_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text(f"user_id,ad_id,ts,click\nu,a,{START},0\nu,b,{START + 1},1\n", "utf-8")
    for words in ("no event falls into the part", "data: made before"):
        with pytest.raises(SystemExit, match="2"):
            main(["quickstart", str(log), "--out", str(tmp_path / "out"), "--no-serve"])
        captured = capsys.readouterr()
        assert words in " ".join((captured.out + captured.err).replace("│", " ").split())
    assert "no event falls into the part" in captured.err
