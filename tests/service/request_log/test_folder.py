"""The log's folder: one writer, files that are whole, and never more bytes or days than it may have."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.log import EVENTS, REQUESTS
from service.request_log.files import LogFolder, LogFolderError

DAY = 86_400.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@settings(max_examples=5)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_the_oldest_make_room_and_the_bound_always_holds(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log")
    folder = LogFolder(path, 100, DAY)
    for number, size in enumerate(sizes):
        folder.add(EVENTS if number % 3 == 0 else REQUESTS, bytes([number]) * size)
        assert folder.size() <= 100
    kept, total = 0, 0
    for size in reversed(sizes):
        total += size
        if total > 100:
            break
        kept += 1
    assert [path.joinpath(name).read_bytes()[0] for name in _in_order(path)] == list(range(len(sizes)))[-kept:]
    folder.close()


def _in_order(path: Path) -> list[str]:
    return sorted(names(path), key=lambda name: name.split("-", 1)[1])


def test_what_is_too_large_for_the_folder_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path, 100, DAY)
    folder.add(REQUESTS, b"x")
    with pytest.raises(LogFolderError, match="101 bytes at once"):
        folder.add(REQUESTS, b"x" * 101)
    assert len(names(tmp_path)) == 1
    folder.close()


def test_old_files_go_and_what_is_not_the_logs_stays(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path, 10**6, DAY)
    folder.add(REQUESTS, b"old")
    (old,) = tmp_path.glob("*.parquet")
    os.utime(old, (time.time() - 2 * DAY,) * 2)
    foreign = tmp_path / "mine.parquet"
    foreign.write_bytes(b"x")
    os.utime(foreign, (0, 0))
    folder.add(REQUESTS, b"new")

    assert not old.exists()
    assert foreign.exists()
    folder.close()


def test_what_was_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".requests-1.parquet.abc", ".events-1.parquet.abc", "requests-1.parquet", ".other"):
        (tmp_path / name).write_bytes(b"x")
    LogFolder(tmp_path, 100, DAY).close()

    assert names(tmp_path) == [".other", "requests-1.parquet"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first = LogFolder(tmp_path / "log", 100, DAY)
    with pytest.raises(LogFolderError, match="another service writes its log here"):
        LogFolder(tmp_path / "log", 100, DAY)
    first.close()
    LogFolder(tmp_path / "log", 100, DAY).close()


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(LogFolderError, match="cannot hold the request log"):
        LogFolder(tmp_path / "log", 100, DAY)
