"""Logs in object storage are copied once each, and read as those in folders."""

from pathlib import Path
from typing import Any

import pytest

from msd.feedback.collect import collected
from msd.feedback.files import FeedbackError, read_events, read_requests
from tests.feedback.made import events, requests


def write_pod(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    requests({"request_id": name}).write_parquet(folder / f"requests-{name}.parquet")
    events(("impression", "a", 1, name)).write_parquet(folder / f"events-{name}.parquet")
    return folder


def test_stored_logs_are_copied_once(tmp_path: Path) -> None:
    store, copies = tmp_path / "store", tmp_path / "copies"
    for pod in ("a", "b"):
        write_pod(store / "logs" / pod, pod)
    (store / "logs/a/.requests-half.parquet.0").write_text("a pod writes here")
    logs = [f"file://{store}", str(write_pod(tmp_path / "own", "c"))]
    with collected(logs, copies) as folders:
        first = {file: file.stat().st_mtime_ns for file in copies.rglob("*.parquet")}
        assert [one["request_id"][0] for one in read_requests(folders)] == ["a", "b", "c"]
        assert sum(one.height for one in read_events(folders)) == 3
    (store / "logs/b/requests-b.parquet").unlink()
    with collected(logs, copies) as folders:
        again = {file: file.stat().st_mtime_ns for file in copies.rglob("*.parquet")}
        assert [one["request_id"][0] for one in read_requests(folders)] == ["a", "c"]

    assert len(first) == 4
    assert again.items() < first.items()


def test_files_that_a_service_removes_meanwhile_are_left_out(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        write_pod(tmp_path, name)
    read = read_requests([tmp_path])
    first = next(read)["request_id"][0]
    (tmp_path / "requests-2.parquet").unlink()

    assert [first, *(frame["request_id"][0] for frame in read)] == ["1", "3"]


def test_rejects_places_without_logs(tmp_path: Path) -> None:
    for log, words in (
        (f"file://{tmp_path}", "holds no file of a log"),
        ("nowhere://x", "nowhere"),
        (str(tmp_path), "holds no log, nor folders of logs"),
        (str(tmp_path / "x"), "no such file or folder"),
    ):
        with pytest.raises(FeedbackError, match=words), collected([log]):
            pass


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"scores": [[0.1]]}, "has not one score and bid a candidate"),
        ({"bids": [2.0]}, "has not one score and bid a candidate"),
        ({"received_at": float("nan")}, "a request lacks its ID, arm or time"),
        ({"received_at": "noon"}, "is not a file of a request log"),
        ({"at": {"s": 1}}, "is not a file of a request log"),
        ({"pricing": ["cpc"]}, "a candidate"),
        ({"pricing": 1.5}, "is not a file of a request log"),
        ({"heads": ["pctr"]}, "a candidate"),
        ({"segments": ["known", None]}, "a list of it lacks a value"),
        ({"history": ["a"], "impressions": [1.0]}, "a list of it lacks a value"),
    ],
)
def test_rejects_requests_of_another_form(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    requests(row).write_parquet(tmp_path / "requests-1.parquet")
    with pytest.raises(FeedbackError, match=f"requests-1.parquet: .*{words}"):
        list(read_requests([tmp_path], ("pricing", "heads", "history", "impressions")))
