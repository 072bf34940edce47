"""A newcomer's logs, each from the file to a scored HTTP request, by the commands alone and without a teacher."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from msd.__main__ import main
from msd.contract.bundle import open_bundle
from tests.service.live import LiveService, live_service

START = 1_714_550_400
TOPICS = ("bread", "bicycles", "gardens", "winter coats", "music", "car loans", "travel", "shoes", "phones", "paint")
Line = tuple[str | Path, ...]


def aggregated(folder: Path) -> Path:
    """One row a headline, with counts; nobody's id, and what was found out afterwards beside it."""
    rows = [
        {
            "headline": f"{TOPICS[n % 10].capitalize()}: what nobody told you, part {n}",
            "format": ("video", "list", "story")[n % 3],
            "impressions": 10 + n % 5,
            "clicks": 1 + (n % 10 > 6) * 4,
            "winner": n % 10 > 6,
            "created_at": START + n * 600,
        }
        for n in range(80)
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


def run(*lines: Line) -> None:
    for line in lines:
        with pytest.raises(SystemExit, match="0"):
            main([str(part) for part in line])


def bundle_of(log: Path, folder: Path, *, has_texts: bool) -> Path:
    """All commands of a newcomer, in this process."""
    data, student, model, bundle = (folder / name for name in ("data", "student", "model", "bundle"))
    taught: Line = (student,) if has_texts else ()
    untaught: Line = () if has_texts else ("--no-semantics",)
    distil: tuple[Line, ...] = (("distill", data, student),) if has_texts else ()
    run(
        ("data", "init", log, "--out", data),
        *distil,
        ("train", data, *taught, model, "--epochs", "1", "--no-lora", *untaught),
        ("evaluate", data, *taught, folder / "figures", "--model", model, "--resamples", "100"),
        (*("export", data, *taught, model, bundle), "--requests", "20", "--candidates", "10"),
    )
    return bundle


@pytest.fixture(params=["aggregated, with texts", "in packed parts, without"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, LiveService, Path]]:
    has_texts = request.param.startswith("aggregated")
    log = aggregated(tmp_path) if has_texts else in_parts(tmp_path)
    bundle = bundle_of(log, tmp_path, has_texts=has_texts)
    with live_service(bundle, tmp_path, encoder="on" if has_texts else "auto") as service:
        yield request.param, service, bundle


def test_a_log_becomes_scores(served: tuple[str, LiveService, Path]) -> None:
    name, service, bundle = served
    manifest = open_bundle(bundle).manifest
    assert manifest.provenance["teacher"] is None
    if name.startswith("aggregated"):
        ids = [f"{TOPICS[n].capitalize()}: what nobody told you, part {n}" for n in (1, 8)]
        new = {"features": {"format": "list"}, "text": "Bread: another story. Format: list."}
        asked = {"user_id": "everybody", "candidates": {"id": [*ids, "new"]}, "items": {"new": new}}
    else:
        ids = ["a0", "a1"]
        asked = {"user_id": "u1", "context": {"hour": 9}, "candidates": {"id": [*ids, "new"]}}
    reply = service.score(asked)
    assert reply.status_code == 200, json.dumps(reply.json())
    pctr = dict(zip(asked["candidates"]["id"], reply.json()["candidates"]["pctr"], strict=True))  # type: ignore[index]
    assert all(0 < score < 1 for score in pctr.values())
    assert set(reply.json()["degraded"]["candidates"]) == {"new"}
    # The clicks were drawn so; whoever learned anything knows it.
    better, worse = (ids[1], ids[0]) if name.startswith("aggregated") else (ids[0], ids[1])
    assert pctr[better] > pctr[worse]
