"""The log: whoever logs never waits, whatever the reader of the streams does; what is left out is counted and said."""

import fcntl
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from msd.contract.bundle import Bundle
from msd.free_port import free_port
from service.telemetry.logs import LINES_AT_ONCE, LINES_PER_S, MAX_WAITING_BYTES, LineCounts, LineLimit, LineWriter
from tests.bundles.factory import golden_requests
from tests.service.live import ROOT, LiveService, live_service, wait_until

# Much of it in each line.
LONG = "/" + "x" * 200
HEADERS = {"X-Request-Id": "y" * 128}


@contextmanager
def stalled_service(bundle: Bundle, read: int, write: int) -> Iterator[LiveService]:
    """A service both of whose streams are a pipe or socket that holds little and that nobody reads."""
    if stat.S_ISFIFO(os.fstat(write).st_mode):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4_096)
    port = free_port()
    given = {"PORT": port, "DRAIN_SECONDS": 0, "WORKERS": 1}
    environment = {**os.environ, **{f"MSD_{name}": str(value) for name, value in given.items()}}
    command = [sys.executable, "-m", "msd", "serve", str(bundle.folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=write, stderr=write)
    os.close(write)
    try:
        running = LiveService(f"http://127.0.0.1:{port}", port, process, Path(os.devnull))
        wait_until(lambda: running.ready()["ready"])
        yield running
    finally:
        process.kill()
        process.wait()
        os.close(read)


def lines_counted(service: LiveService, result: str) -> float:
    return service.metric(f'msd_log_lines_total{{result="{result}"}}')


def socket_pair() -> tuple[int, int]:
    read, write = socket.socketpair()
    write.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    return read.detach(), write.detach()


@pytest.mark.parametrize("pair", [os.pipe, socket_pair])
def test_reader_that_stalls_stops_nothing(bundle: Bundle, pair: Callable[[], tuple[int, int]]) -> None:
    with stalled_service(bundle, *pair()) as running:
        with running.client(headers=HEADERS) as client:
            for _ in range(150):
                assert client.get(LONG).status_code == 404
            assert client.get("/health/live").status_code == 200
            assert client.post("/v1/score", json=golden_requests()[0]).status_code == 200
        assert running.terminate() == 0


def test_strangers_cannot_fill_the_log(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        with running.client() as client:

            def is_limited() -> bool:
                assert {client.get(f"/{number}").status_code for number in range(200)} == {404}
                return lines_counted(running, "limited") > 0

            wait_until(is_limited)
            # Other kinds of lines have an allowance of their own.
            assert client.post("/v1/score", json={}, headers={"X-Request-Id": "refused"}).status_code == 422
        assert running.terminate() == 0
        assert any(line.get("request_id") == "refused" for line in running.log())


def test_output_of_python_itself_does_not_block() -> None:
    """Warnings, tracebacks of threads, prints, bytes by the descriptor: more than the pipe holds."""
    code = """
import logging, os, sys, threading, warnings
from service.telemetry.logs import configure_logs, keep_standard_streams
keep_standard_streams()
counts = configure_logs("info")
for number in range(20):
    warnings.warn("w" * 9_000 + str(number))
    threading.excepthook(threading.ExceptHookArgs([ValueError, ValueError("x" * 9_000), None, None]))
    print("p" * 9_000, file=sys.stderr)
    logging.getLogger("uvicorn.error").warning("u" * 9_000)
    try:
        os.write(2, b"c" * 9_000)
    except BlockingIOError:
        pass
raise SystemExit(7)
"""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4_096)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=write, timeout=60, check=False)
    assert ended.returncode == 7
    os.close(write)
    os.close(read)


def test_last_lines_are_written_at_exit() -> None:
    code = """
import sys
import structlog
from service.telemetry.logs import configure_logs
configure_logs("info")
for number in range(500):
    structlog.get_logger("a").info(str(number))
sys.stderr.write("half a line")
sys.stderr.flush()
raise ValueError("the end")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert [json.loads(line)["event"] for line in ended.stdout.splitlines()] == [str(number) for number in range(500)]
    assert ended.stderr.startswith("half a line")
    assert ended.stderr.endswith("ValueError: the end\n")


def test_waiting_lines_are_bounded() -> None:
    read, write = os.pipe()
    counts = LineCounts()
    writer = LineWriter(write, counts)
    line = b"x" * 999 + b"\n"
    total = 3 * MAX_WAITING_BYTES // len(line)
    for _ in range(total):
        writer.write(line)
    dropped = counts.read()["dropped"]
    assert 3 * MAX_WAITING_BYTES - len(line) * dropped < MAX_WAITING_BYTES + 2**17

    with os.fdopen(read, "rb") as lines:
        assert next(lines) == line
    # Without a reader the thread loses what waits. A descriptor that is closed before that may be another's by then.
    while sum(counts.read()[kind] for kind in ("written", "lost", "dropped")) < total:
        time.sleep(0.01)
    os.close(write)


def test_repeated_kind_of_line_is_suppressed_and_counted() -> None:
    now = 100.0
    counts = LineCounts()
    limit = LineLimit(counts, lambda: now)

    def passes(status: int) -> int | None:
        """Return how many were left out before; None if it is left out too."""
        try:
            return int(limit(None, "info", {"event": "request", "status": status}).get("suppressed", 0))
        except structlog.DropEvent:
            return None

    passed = [passes(404) for _ in range(int(LINES_AT_ONCE) + 50)]
    assert passed.count(None) == counts.read()["limited"] == 50
    assert passes(500) == 0
    now += 2.5 / LINES_PER_S
    assert [passes(404) for _ in range(3)] == [50, 0, None]


def test_kinds_without_number_share_an_allowance() -> None:
    counts = LineCounts()
    limit = LineLimit(counts, lambda: 0.0)
    for number in range(5_000):
        limit.filter(logging.makeLogRecord({"name": f"no{number}"}))

    assert counts.read()["limited"] == 5_000 - 512 - LINES_AT_ONCE


def test_lines_of_libraries_are_json_with_their_name_and_limited() -> None:
    code = """
import logging
from service.telemetry import logs
logs.LINES_AT_ONCE = 2
logs.configure_logs("info")
for logs.LINES_PER_S in (0, 0, 0, 0, 1e9):
    logging.getLogger("some.library").warning("it rains")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=300, check=True)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]

    assert {"event", "level", "timestamp"} <= set(lines[0])
    assert {(line["logger"], line["event"]) for line in lines} == {("some.library", "it rains")}
    assert [line.get("suppressed") for line in lines] == [None, None, 2]


def test_any_value_is_written() -> None:
    code = """
import structlog
from service.telemetry.logs import configure_logs
configure_logs("info")
structlog.get_logger("a").info("bundle", folder="/\\udcff", number=2**70)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=300, check=True)
    (line,) = [json.loads(line) for line in ended.stdout.splitlines()]

    assert (line["folder"], line["number"]) == ("/\udcff", 2**70)
