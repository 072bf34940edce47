"""`msd join` over real files: what it prints, writes and refuses."""

import json
from pathlib import Path

import polars as pl
import pytest

from msd.__main__ import main
from msd.dataset.load import load_dataset
from msd.feedback.dataset import write_dataset
from tests.dataset.small import write_small
from tests.feedback.made import events, requests, traffic
from tests.feedback.test_dataset import LATER, asks, described, logged

NEW = "<b>new</b>"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an experiment in two files, with its events in one."""
    folder = tmp_path_factory.mktemp("experiment")
    made, told = traffic(seed=3, users=6_000, lift=0.3)
    made = made.with_columns(pl.col("arm").replace("new", NEW))
    half = made.height // 2
    made[:half].write_parquet(folder / "requests-1.parquet")
    made[half:].write_parquet(folder / "requests-2.parquet")
    told.write_parquet(folder / "events-1.parquet")
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["join", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_join_by_arm_prints_figures(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(experiment, "--by", "arm", "--settle-hours", 0, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert run(experiment, "--by", "arm") == 0
    told = capsys.readouterr().out

    assert "Sample ratio: p" in told
    assert "as the shares say" in told
    assert list(found["arms"]) == ["champion", NEW]
    ctr = found["arms"][NEW]["differences"]["ctr"]
    assert ctr["p"] < 0.05
    assert ctr["relative"]["ci95"][0] < 0.3 < ctr["relative"]["ci95"][1]
    assert found["told"]["joined_impressions"] == found["told"]["impressions"]


def test_sample_ratio_mismatch_is_printed(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(experiment, "--by", "arm", "--shares", f"champion=0.6,{NEW}=0.4") == 0
    assert "do NOT have the users that their shares say" in " ".join(capsys.readouterr().out.split())


def test_join_writes_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, old = tmp_path / "log", write_small(tmp_path / "old")
    log.mkdir()
    logged(asks("u1", "1"), asks("u2", "2")).write_parquet(log / "requests-1.parquet")
    shown = events(
        ("impression", "1", LATER, "r0"), ("click", "1", LATER + 3_601, "r0"), ("impression", "2", LATER, "x")
    )
    shown.write_ndjson(tmp_path / "events.jsonl")
    arguments = (log, "--events", tmp_path / "events.jsonl", "--dataset", old, "--out", tmp_path / "new")

    assert run(*arguments, "--window-hours", 1, "--settle-hours", 0) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 impressions and 0 of 1 clicks joined to 2 logged requests" in told
    assert "1 late clicks" in told
    assert "1 impressions not logged" in told
    assert load_dataset(tmp_path / "new").events.height == load_dataset(old).events.height + 1


def test_pods_logs_join_exactly_once_before_any_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A click may reach another pod than its request, and two pods may log one request."""
    old = write_small(tmp_path / "old")
    before, shown, was = [logged(asks("u1", "1"))], events(("impression", "1", LATER - 9, "r0")), load_dataset(old)
    joined = described(before, shown, was, has_conversions=True).frame
    write_dataset(joined, was, tmp_path / "first", log_only=True)
    both = logged(asks("u1", "1"), asks("u2", "2"))
    for name, log in (("a", both), ("b", both[1:])):
        (tmp_path / "pods" / name).mkdir(parents=True)
        log.write_parquet(tmp_path / "pods" / name / "requests-1.parquet")
    shown = events(("impression", "1", LATER, "r0"), ("impression", "2", LATER, "r1"))
    shown.write_parquet(tmp_path / "pods/a/events-1.parquet")
    events(("click", "2", LATER + 5, "r1", "c")).write_parquet(tmp_path / "pods/b/events-1.parquet")
    waiting = ("--settle-hours", 0, "--conversion-settle-hours", 0)

    assert run(tmp_path / "pods", "--dataset", tmp_path / "first", "--out", tmp_path / "new", *waiting) == 0
    told = capsys.readouterr().out
    assert "2 of 2 impressions and 1 of 1 clicks joined to 3 logged requests" in told
    assert "1 repeated requests" in told
    found = load_dataset(tmp_path / "new").events
    assert found.filter(pl.col("at") >= LATER).select("label", "conversion").rows() == [(0, 0), (1, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--by", "arm"], "nowhere: no such file or folder"),
        (["."], "give --dataset and --out for training data, or --by arm"),
        ([".", "--out", "x"], "give --dataset and --out for training data, or --by arm"),
        ([".", "--by", "arm"], ".: holds no file of events"),
        ([".", "--events", "events.jsonl", "--by", "arm"], "an event is of type 'view'; there are: impression, click"),
        ([".", "--events", "torn.jsonl", "--by", "arm"], "torn.jsonl: cannot be read as events"),
        ([".", "--events", "other.jsonl", "--by", "arm"], "has no column 'event_id'"),
        ([".", "--events", "nested.jsonl", "--by", "arm"], "nested.jsonl: a column is of another type"),
        ([".", "--events", "place0.jsonl", "--by", "arm"], "has the position 0; it should be a whole number from 1"),
        ([".", "--events", "place1.jsonl", "--by", "arm"], "has the position 1.5; it should be"),
        ([".", "--events", "place2.jsonl", "--by", "arm"], "has the position top; it should be"),
        ([".", "--events", "place3.jsonl", "--by", "arm"], "has the position True; it should be"),
        ([".", "--events", "place4.jsonl", "--by", "arm"], "has the position 999; it should be"),
        ([".", "--events", "text.parquet", "--by", "arm"], "text.parquet: cannot be read as events"),
    ],
)
def test_rejects_unusable_input_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = {"event_id": "e", "type": "view", "user_id": "u", "item_id": "i", "at": 1}
    requests({}).write_parquet("requests-1.parquet")
    Path("events.jsonl").write_text(json.dumps(whole) + "\n")
    Path("torn.jsonl").write_text('{"event_id": \n')
    Path("other.jsonl").write_text('{"x": 1}\n')
    for number, place in enumerate((0, 1.5, "top", True, 999)):
        Path(f"place{number}.jsonl").write_text(json.dumps(whole | {"position": place}) + "\n")
    Path("nested.jsonl").write_text(json.dumps(whole | {"at": {"s": 1}}) + "\n")
    Path("text.parquet").write_text("text")

    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in " ".join((captured.err + captured.out).replace("│", " ").split())
