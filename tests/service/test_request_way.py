"""The way of a plain request through the service, as docs/design.md draws it, is the one that it takes."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

import native
from msd.contract.bundle import Bundle
from msd.free_port import free_port
from service.process import run_service
from service.settings import Settings
from tests.bundles.factory import golden_requests
from tests.service.live import ROOT, wait_until


@pytest.mark.skipif(native.core is None, reason="the native core is not built")
def test_design_draws_the_files_that_a_plain_request_runs(bundle: Bundle) -> None:
    command = [sys.executable, "-m", "tests.service.test_request_way", str(bundle.folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    _, _, found = ended.stdout.partition("the way:\n")
    text = (ROOT / "docs/design.md").read_text("utf-8")
    drawing = text.partition("## One request\n")[2].split("```")[1]

    drawn = re.findall(r"(?:^|\s)\d+ ([a-z_]+/[a-z_]+\.py)", drawing, re.MULTILINE)
    assert set(drawn) == set(found.split())
    assert len(drawn) == len(set(drawn))


SERVICE = f"{ROOT / 'service'}{os.sep}"
SERVERS = (f"{SERVICE}http/server.py", f"{SERVICE}scoring_server.py")
LAST = "telemetry/metrics.py"
PLAIN = ("user_id", "at", "context", "candidates")
# What goes on beside requests.
BESIDE = ("rollout", "watchdog", "log-lines", "asyncio_")  # the last return free memory, about once a second


class Way:
    """The files, from `is_watched` on."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.is_watched = False

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        """Called by Python for each call of a function in any thread."""
        name = frame.f_code.co_filename
        if self.is_watched and event == "call" and name.startswith(SERVICE) and not _is_beside(frame):
            self.files.setdefault(name.removeprefix(SERVICE))


def _is_beside(frame: FrameType | None) -> bool:
    if threading.current_thread().name.startswith(BESIDE):
        return True
    # The server takes connections in, and looks after them some times a second.
    while frame is not None and frame.f_code.co_filename not in SERVERS:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name != "run"


def _ask(port: int, way: Way) -> None:
    """Three requests on one connection, each in one piece. Each is counted after its reply, the last thing of all."""
    body = json.dumps({key: value for key, value in golden_requests()[0].items() if key in PLAIN}).encode()
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        connection = _ready(port)
        for number in range(3):
            way.is_watched = number > 0
            assert _status(connection, head.encode() + body) == 200
        wait_until(lambda: LAST in way.files)
        way.is_watched = False
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _ready(port: int) -> socket.socket:
    """A connection to a service that is ready. One that is not closes it."""
    ready: list[socket.socket] = []

    def is_ready() -> bool:
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port))
            if _status(connection, b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n") == 200:
                ready.append(connection)
        return bool(ready)

    wait_until(is_ready)
    return ready[0]


def _status(connection: socket.socket, request: bytes) -> int:
    connection.sendall(request)
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    reply.read()
    return reply.status


def main() -> None:
    port, way = free_port(), Way()
    threading.setprofile(way.note)
    sys.setprofile(way.note)
    asking = threading.Thread(target=_ask, args=(port, way), name="asking")
    asking.start()
    run_service(Settings(bundle=Path(sys.argv[1]), port=port, drain_seconds=0, log_level="error"))
    asking.join()
    print("\n".join(["the way:", *way.files]))  # noqa: T201 - it is a command


if __name__ == "__main__":
    main()
