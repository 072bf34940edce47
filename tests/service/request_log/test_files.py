"""The log's folder: one writer, files that are whole, and never more bytes or days than it may have."""

import math
import os
import random
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.log import EVENTS, REQUESTS, EventRecord, RequestRecord
from msd.process import held
from service.request_log.files import (
    LogFileError,
    LogFolder,
    LogFolderError,
    encode,
    encode_batches,
    log_files,
    read_events,
    read_requests,
    return_free_memory,
    to_batch,
)
from service.request_log.request_log import LoggedEvents, is_sampled, records_of

DAY = 86_400.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_no_file_replaces_another_while_the_clock_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LogFolder(tmp_path, 10**6, DAY)
    monkeypatch.setattr(time, "time_ns", lambda: 1_796_148_172_309_195_421)
    for number in range(200):
        folder.add(REQUESTS, b"%d" % number)
    assert [int((tmp_path / name).read_bytes()) for name in names(tmp_path)] == list(range(200))
    folder.close()


@settings(max_examples=5)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_oldest_make_room_and_the_bound_always_holds(
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
    in_order = sorted(names(path), key=lambda name: name.split("-", 1)[1])
    assert [path.joinpath(name).read_bytes()[0] for name in in_order] == list(range(len(sizes)))[-kept:]
    folder.close()


def test_file_over_the_folder_s_limit_removes_nothing(tmp_path: Path) -> None:
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


def test_half_written_files_are_removed(tmp_path: Path) -> None:
    for name in (".requests-1.parquet.abc", ".events-1.parquet.abc", "requests-1.parquet", ".other"):
        (tmp_path / name).write_bytes(b"x")
    LogFolder(tmp_path, 100, DAY).close()

    assert names(tmp_path) == [".other", "requests-1.parquet"]


def test_folder_has_one_writer(tmp_path: Path) -> None:
    first = LogFolder(tmp_path / "log", 100, DAY)
    with pytest.raises(LogFolderError, match="another service writes its log here"):
        LogFolder(tmp_path / "log", 100, DAY)
    first.close()
    LogFolder(tmp_path / "log", 100, DAY).close()


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(LogFolderError, match="cannot hold the request log"):
        LogFolder(tmp_path / "log", 100, DAY)


RECORD = RequestRecord(
    request_id="r",
    received_at=1.5,
    at=1.0,
    arm="champion",
    arm_share=0.5,
    model_version="m",
    bundle_id="b",
    manifest_sha256="s",
    engine="onnxruntime-cpu-fp32",
    runtime_version="1",
    instructions="avx2",
    threads=1,
    ran=2,
    is_partial=False,
    is_shared=False,
    user_id="ü",
    request=b"{}",
    history=["i1"],
    correction=[-3.0, 0.1, 0.9],
    pricing=["cpc", "cpa"],
    impressions=[math.inf, 2.0, 1.0],
    explore={"policy": "ucb", "share": 0.1, "seed": "7", "explored": True, "first": 1, "propensity": 1 / 3},
    item_ids=["i1", "i2"],
    bids=[None, 0.1],
    user_row=b"\0\1",
    user_found=True,
    user_stale=None,
    item_rows=b"\2",
    items_found=b"\1\0",
    items_stale=b"\0\0",
    heads=["pctr", "pcvr"],
    scores=[np.array([0.1, 1e-40], np.float32), np.array([1 / 3, 1.0], np.float32)],
    degraded_user="cached",
    rungs=[None, "prior"],
    served=[1, 0],
    parse_ms=0.5,
    rows_ms=0.0,
    queue_ms=0.0,
    run_ms=1.0,
    total_ms=2.0,
)
BARE = replace(RECORD, bids=None, items_stale=None, user_stale=False, degraded_user=None, rungs=None, served=None)
EVENT = EventRecord("e", "click", "u", "i", 1.25, None, 2.0)


def same(found: RequestRecord, due: RequestRecord) -> None:
    for field in fields(RequestRecord):
        left, right = getattr(found, field.name), getattr(due, field.name)
        if field.name == "scores":
            assert [scores.tobytes() for scores in left] == [scores.tobytes() for scores in right]
        else:
            assert left == right, field.name


def test_records_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "requests-1.parquet"
    path.write_bytes(encode([RECORD, BARE]))
    first, second = read_requests(path)

    same(first, RECORD)
    same(second, BARE)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    events = [EVENT, replace(EVENT, request_id="r", position=2)]
    path.write_bytes(encode(events))
    assert list(read_events(path)) == events


def test_memory_of_written_batches_is_returned() -> None:
    rng = random.Random(0)
    rows = [replace(RECORD, item_rows=rng.randbytes(rng.randrange(25_000))) for _ in range(160)]
    batches = [to_batch(rows[start:][:8]) for start in range(len(rows))]
    encode_batches(batches)
    del batches
    before = held(os.getpid()).anonymous
    return_free_memory()

    assert held(os.getpid()).anonymous < before - 4 * 2**20


def test_foreign_or_broken_log_file_is_refused(tmp_path: Path) -> None:
    foreign, broken = tmp_path / "requests-1.parquet", tmp_path / "requests-2.parquet"
    pq.write_table(pa.table({"x": [1]}), foreign)
    whole = encode([RECORD])
    broken.write_bytes(whole[: len(whole) // 2])
    lacking, later = tmp_path / "requests-3.parquet", tmp_path / "requests-4.parquet"
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(table.drop_columns(["total_ms"]), lacking)
    pq.write_table(table.append_column("of_a_later_release", pa.array([1])), later)

    for path in (foreign, lacking, later):
        with pytest.raises(LogFileError, match="its columns differ"):
            list(read_requests(path))
    with pytest.raises(LogFileError, match="not readable as Parquet"):
        list(read_requests(broken))
    with pytest.raises(LogFileError, match="holds no file of events"):
        log_files(tmp_path, "events")
    with pytest.raises(LogFileError, match="no such folder"):
        log_files(tmp_path / "none")
    assert log_files(tmp_path) == [foreign, broken, lacking, later]


def test_flipped_byte_is_never_read_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "requests-1.parquet"
    whole = encode([replace(RECORD, request=bytes(range(256)) * 20)])
    for place in random.Random(1).sample(range(4, len(whole)), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            found = list(read_requests(path))
        except LogFileError:
            continue
        # What is not data, such as statistics, may change unnoticed.
        assert found[0].request == bytes(range(256)) * 20


def test_logged_events_equal_those_of_the_request() -> None:
    body = (
        b'{"events":[{"event_id":"e","type":"click","user_id":"u","item_id":"i","at":1.25},'
        b'{"event_id":"f","type":"impression","user_id":"u","item_id":"i","at":1,"request_id":"r","position":3},'
        b'{"event_id":"g","type":"click","user_id":null,"item_id":"i","at":1,"request_id":"r"},'
        b'{"event_id":"h","type":"conversion","user_id":"u","item_id":"i","at":1,"value":3,"currency":"EUR"}]}'
    )
    assert list(records_of(LoggedEvents(body, 3, 2.0))) == [
        EVENT,
        EventRecord("f", "impression", "u", "i", 1, "r", 2.0, 3),
        EventRecord("g", "click", "", "i", 1, "r", 2.0),
        EventRecord("h", "conversion", "u", "i", 1, None, 2.0, value=3, currency="EUR"),
    ]


@pytest.mark.parametrize("form", ["{}", "3f2a9c0011223344{:016x}", "{:08d}-a"])
def test_share_of_ids_is_sampled_whatever_they_look_like(form: str) -> None:
    for share in (0.01, 0.3):
        sampled = sum(is_sampled(form.format(number), share) for number in range(20_000))
        assert abs(sampled / 20_000 - share) < 0.02
    assert all(is_sampled(form.format(number), 1.0) for number in range(100))
    assert not any(is_sampled(form.format(number), 0.0) for number in range(100))
