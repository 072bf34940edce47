"""The queue and the thread of the request log: nobody waits, memory and the end are bounded, all that was taken is
written or counted as lost.
"""

import asyncio
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from msd.contract.bundle import Bundle
from msd.contract.log import EVENTS
from service.request_log.files import LogFolder, log_files, read_events
from service.request_log.request_log import LoggedEvents, LogWriter, RequestLog, open_request_log
from service.scoring.answer import Basis, Served
from service.scoring.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.live import wait_until
from tests.service.request_log.log import records

MAX_BYTES = 16 * 2**20
PATIENCE_S = 60.0
DENSE = ("user_dense", "item_dense", "context_dense")
TIMES = (0.0,) * 5


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return load_model(bundle, Settings(bundle=bundle.folder), Metrics())


def served(model: Model, request_id: str, count: int = 2, user_id: str = "u1") -> Served:
    """A request to the champion; its scores are its rows' clicks, which the log does not interpret."""
    ids = [f"i{place % 300}" for place in range(count)]
    user, items = asyncio.run(model.store.get("user", ["u1"])), asyncio.run(model.store.get("item", ids))
    scores = {"pctr": items.records["clicks"].copy()}
    body = json.dumps({"user_id": user_id, "candidates": {"id": ids}}).encode()
    inputs = {name: np.zeros((count, model.schema.dense_width("item")), np.float32) for name in DENSE}
    basis = Basis(1.0, user, items, count)
    return Served(
        request_id, 1.0, "champion", 1.0, True, model, body, basis, scores, {}, None, None, None, inputs, TIMES
    )


class SlowFolder(LogFolder):
    """A disk that hangs until the test says otherwise."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 2**30, 1e9)
        self.is_writing, self.may_write = threading.Event(), threading.Event()

    def add(self, kind: str, data: bytes | memoryview) -> None:
        self.is_writing.set()
        assert self.may_write.wait(60)
        super().add(kind, data)


def results(metrics: Metrics, name: str = "records") -> dict[str, float]:
    start = f'msd_log_{name}_total{{result="'
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith(start)]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def waiting(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    found = [line.split('"') for line in lines if line.startswith("msd_log_waiting{")]
    return {kind: float(value.strip("} ")) for _, kind, value in found}


@contextmanager
def slow_log(path: Path, metrics: Metrics, share: float = 1.0) -> Iterator[tuple[RequestLog, SlowFolder]]:
    folder = SlowFolder(path)
    try:
        yield RequestLog(LogWriter(folder, metrics, share, 0.0), share, 0.05, metrics), folder
    finally:
        folder.may_write.set()


def test_disk_that_hangs_fills_the_queue_and_no_more_and_all_that_was_taken_is_written(
    model: Model, tmp_path: Path
) -> None:
    metrics, large = Metrics(), served(model, "r", 2_000)
    with slow_log(tmp_path, metrics) as (log, folder):
        log.request(large)
        assert folder.is_writing.wait(60)
        for number in range(2 * MAX_BYTES // large.size):
            log.request(large._replace(request_id=f"r{number}"))
        found = results(metrics)
        assert found["dropped"] > 0
        assert MAX_BYTES - large.size < found["handed"] * large.size <= MAX_BYTES
        # What is small finds room where what is large does not.
        log.request(served(model, "small"))
        assert results(metrics)["handed"] == found["handed"] + 1
        folder.may_write.set()
        asyncio.run(log.close(PATIENCE_S))
    assert results(metrics)["written"] == found["handed"] + 1
    assert {record.request_id for record in records(tmp_path)} >= {"r", "r0", "small"}


def test_number_that_waits_is_bounded_too(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    with slow_log(tmp_path, metrics) as (log, folder):
        log.events(b'{"events": []}', 0)
        log.request(served(model, "r"))
        assert folder.is_writing.wait(60)
        for _ in range(5_000):
            log.events(b'{"events": [{}]}', 1)
        found = results(metrics, "events")
        assert (found["handed"], found["dropped"]) == (4_095, 905)
        folder.may_write.set()
        asyncio.run(log.close(PATIENCE_S))
    assert results(metrics, "events")["lost"] == 4_095, "they are no events"


def test_what_a_hanging_disk_leaves_at_the_end_is_counted_as_lost(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    with slow_log(tmp_path, metrics) as (log, folder):
        for number in range(3):
            log.request(served(model, f"r{number}"))
        log.events(b'{"events": [{}, {}]}', 2)
        assert folder.is_writing.wait(60)
        assert waiting(metrics) == {"requests": 3, "events": 2}
        with capture_logs() as lines:
            asyncio.run(log.close(0.1))
    assert [(line["event"], line["requests"], line["events"]) for line in lines] == [
        ("request_log_draining", 3, 2),
        ("request_log_unfinished", 3, 2),
    ]
    assert results(metrics) == {"handed": 3, "dropped": 0, "written": 0, "lost": 3}
    assert results(metrics, "events")["lost"] == 2
    assert waiting(metrics) == {"requests": 0, "events": 0}


class FullFolder(LogFolder):
    """A disk without room."""

    def add(self, kind: str, data: bytes | memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_full_disk_loses_at_the_end_is_said_with_its_number(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    log = RequestLog(LogWriter(FullFolder(tmp_path, 2**30, 1e9), metrics, 1.0, 3_600.0), 1.0, 3_600.0, metrics)
    for number in range(3):
        log.request(served(model, f"r{number}"))
    with capture_logs() as lines:
        asyncio.run(log.close(PATIENCE_S))
    assert [line["requests"] for line in lines if line["event"] == "request_log_unfinished"] == [3]
    assert results(metrics) == {"handed": 3, "dropped": 0, "written": 0, "lost": 3}


class NotedWriter(LogWriter):
    """One that notes the priority with which each record is made; the first waits until the test says otherwise."""

    def __init__(self, folder: LogFolder, metrics: Metrics) -> None:
        super().__init__(folder, metrics, 1.0, 3_600.0)
        self.priorities: list[int] = []
        self.is_asked, self.may_take = threading.Event(), threading.Event()

    def take(self, told: Served | LoggedEvents) -> None:
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.is_asked.set()
        assert self.may_take.wait(60)
        super().take(told)


@pytest.mark.skipif(sys.platform != "linux", reason="nice is a thread's own on Linux alone")
def test_what_waits_at_the_end_is_written_at_normal_priority(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    writer = NotedWriter(LogFolder(tmp_path, 2**30, 1e9), metrics)
    log = RequestLog(writer, 1.0, 3_600.0, metrics)
    for number in range(5):
        log.request(served(model, f"r{number}"))
    assert writer.is_asked.wait(60)

    async def close() -> None:
        closing = asyncio.create_task(log.close(PATIENCE_S))
        await asyncio.sleep(0)
        writer.may_take.set()
        await closing

    asyncio.run(close())
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert writer.priorities == [max(10, ours), *[ours] * 4]
    assert results(metrics)["written"] == 5


class UnseenQueue(SimpleQueue[Served | None]):
    """One in which nothing is seen until the test says so."""

    is_asked, may_see = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Served | None:
        if self.may_see.is_set():
            return super().get(block, timeout)
        self.is_asked.set()
        assert self.may_see.wait(60)
        raise Empty


def test_record_that_comes_right_before_the_end_is_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.request_log.request_log.SimpleQueue", UnseenQueue)
    log = open_request_log(Settings(bundle=tmp_path, log_dir=tmp_path, log_sample=1.0), Metrics())
    assert log is not None
    assert UnseenQueue.is_asked.wait(60)
    last = served(model, "last")

    async def close() -> None:
        log.request(last)
        closing = asyncio.create_task(log.close(PATIENCE_S))
        await asyncio.sleep(0)
        UnseenQueue.may_see.set()
        await closing

    asyncio.run(close())
    assert [record.request_id for record in records(tmp_path)] == ["last"]


def test_record_that_cannot_be_written_is_lost_alone(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    log = open_request_log(Settings(bundle=tmp_path, log_dir=tmp_path, log_sample=1.0), metrics)
    assert log is not None
    for number, user_id in enumerate(("u1", "\ud800", "u1")):
        log.request(served(model, f"r{number}", user_id=user_id))
    broken = served(model, "broken")
    log.request(broken._replace(seconds=(0.0,)))  # type: ignore[arg-type]
    log.events(b"no JSON", 7)
    asyncio.run(log.close(PATIENCE_S))

    assert results(metrics) == {"handed": 4, "dropped": 0, "written": 2, "lost": 2}
    assert results(metrics, "events")["lost"] == 7
    assert [record.request_id for record in records(tmp_path)] == ["r0", "r2"]


class FailingWriter(LogWriter):
    """One that fails at what nobody foresaw, once at each step."""

    def __init__(self, folder: LogFolder, metrics: Metrics) -> None:
        super().__init__(folder, metrics, 1.0, 0.0)
        self.failed: set[str] = set()

    def take(self, record: Served | LoggedEvents) -> None:
        self._fail("take")
        super().take(record)

    def tick(self) -> None:
        self._fail("tick")
        super().tick()

    def _fail(self, step: str) -> None:
        if step not in self.failed:
            self.failed.add(step)
            raise RuntimeError(step)


def test_writer_that_fails_goes_on_with_the_next_record(model: Model, tmp_path: Path) -> None:
    metrics = Metrics()
    writer = FailingWriter(LogFolder(tmp_path, 2**30, 1e9), metrics)
    with capture_logs() as lines:
        log = RequestLog(writer, 1.0, 0.05, metrics)
        wait_until(lambda: "tick" in writer.failed)
        log.request(served(model, "first"))
        log.request(served(model, "second"))
        wait_until(lambda: results(metrics)["written"] == 1)
    asyncio.run(log.close(PATIENCE_S))

    assert [record.request_id for record in records(tmp_path)] == ["second"]
    assert results(metrics) == {"handed": 2, "dropped": 0, "written": 1, "lost": 1}
    assert {line["event"] for line in lines} == {"request_log_failed"}


def test_record_is_written_though_the_folder_cannot_be_measured(model: Model, tmp_path: Path) -> None:
    class Unmeasured(LogFolder):
        def size(self) -> int:
            if self.is_unreadable:
                raise PermissionError("the folder")
            return super().size()

        is_unreadable = False

    metrics, folder = Metrics(), Unmeasured(tmp_path, 2**30, 1e9)
    log = RequestLog(LogWriter(folder, metrics, 1.0, 0.0), 1.0, 0.0, metrics)
    folder.is_unreadable = True
    log.request(served(model, "first"))
    asyncio.run(log.close(PATIENCE_S))

    assert results(metrics) == {"handed": 1, "dropped": 0, "written": 1, "lost": 0}


def test_events_of_requests_outside_the_sample_are_left_out(tmp_path: Path) -> None:
    metrics = Metrics()
    log = open_request_log(Settings(bundle=tmp_path, log_dir=tmp_path, log_sample=0.0), metrics)
    assert log is not None
    event = {"event_id": "e", "type": "click", "user_id": "u", "item_id": "i", "at": 1.0}
    log.events(orjson.dumps({"events": [event, {**event, "request_id": "r"}]}), 2)
    asyncio.run(log.close(PATIENCE_S))

    assert results(metrics, "events") == {"handed": 2, "dropped": 0, "written": 1, "lost": 0, "unsampled": 1}
    (file,) = log_files(tmp_path, EVENTS)
    assert [event.request_id for event in read_events(file)] == [None]


@pytest.mark.skipif(sys.platform != "linux", reason="nice is a thread's own on Linux alone")
def test_thread_alone_stands_back(tmp_path: Path) -> None:
    log = open_request_log(Settings(bundle=tmp_path, log_dir=tmp_path), Metrics())
    assert log is not None
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "request-log"]
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) >= max(10, ours))
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
    asyncio.run(log.close(PATIENCE_S))
    assert not thread.is_alive()
