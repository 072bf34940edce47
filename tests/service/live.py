"""Runs the real service in a process of its own for tests: `with live_service(bundle, tmp_path) as service: ...`."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from msd.__main__ import main
from service import limits
from tests.service.forked import ForkedProcess

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 120.0
PAUSE_S = 0.005
"""Between two requests of a client that asks all the time: it leaves time to the service, and to other tests."""
_OWN_PROCESS = ("serve", "check")
_LIMITS = dict.fromkeys(("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "REPLY_TIMEOUT_S", "HANG_S", "END_S"), 120.0)
Process = ForkedProcess | subprocess.Popen[bytes]


@dataclass(frozen=True)
class LiveService:
    """A running service: where it listens, its process, and everything that it has logged."""

    url: str
    port: int
    process: Process
    log_path: Path

    def client(self, **options: Any) -> httpx.Client:  # noqa: ANN401 - httpx's own options
        """A client that knows the address and never follows the environment's proxies; it needs no certificates."""
        return httpx.Client(base_url=self.url, trust_env=False, verify=_without_proof(), timeout=30.0, **options)

    @property
    def admin_port(self) -> int:
        """Where its admin port is, once a thread of its own has opened it."""

        def ports() -> list[int]:
            return [line["port"] for line in self.log() if line["event"] == "admin_listening"]

        wait_until(ports)
        return ports()[0]

    def admin(self, **options: Any) -> httpx.Client:  # noqa: ANN401 - httpx's own options
        """A client of its admin port."""
        url = self.url.replace(f":{self.port}", f":{self.admin_port}")
        return httpx.Client(base_url=url, trust_env=False, verify=_without_proof(), timeout=30.0, **options)

    def score(self, document: Mapping[str, Any]) -> httpx.Response:
        """One scoring request on a connection of its own."""
        with self.client() as client:
            return client.post("/v1/score", json=document)

    def ready(self) -> dict[str, Any]:
        """The body of /health/ready."""
        with self.client() as client:
            body: dict[str, Any] = client.get("/health/ready").json()
            return body

    def metric(self, name: str, asks: httpx.Client | None = None) -> float:
        """The value of a sample, given with its labels as the exposition writes them. A client that asks is closed."""
        with asks or self.client() as client:
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no sample {name}")

    def log(self) -> list[dict[str, Any]]:
        """The log's lines; each has to be JSON. The last one may be half-written."""
        # What a stranger asked for may hold other ends of lines than this one.
        return [json.loads(line) for line in self.log_path.read_text("utf-8").split("\n")[:-1] if line]

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE_S)


@contextmanager
def live_service(
    bundle: Path,
    folder: Path,
    *,
    wait_ready: bool = True,
    python_path: Path | None = None,
    open_files: int | None = None,
    prepare: Callable[[], None] | None = None,
    **settings: object,
) -> Iterator[LiveService]:
    """`msd serve` on a free port, with settings by their names; it ends with the block.

    Logs go into `folder`; the port is read from them, so the log level has to be info or debug. Nothing is late unless
    a test says when, however slow the machine, and explanations may take as long as they do. `open_files` is the most
    that it may have open; its process is `prepare`d before all else. Names in capitals are those of `service.limits`,
    which it then has in its process.
    """
    bounds = _LIMITS | {name: settings.pop(name) for name in list(settings) if name.isupper()}
    patient = {"deadline_ms": 60_000, "store_timeout_ms": 3_000, "explain_share": 1}
    given = {"bundle": bundle, "port": 0, "drain_seconds": 0, "workers": 1, **patient, **settings}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MSD_")},
        **{f"MSD_{name.upper()}": str(value) for name, value in given.items()},
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (python_path, ROOT)))),
    }
    log_path, error_path = folder / "service.log", folder / "service.err"
    for path in (log_path, error_path):  # of an earlier one
        path.write_bytes(b"")
    process: Process
    if python_path is None:
        prepared = partial(_set_limits, bounds, prepare)
        process = ForkedProcess(["serve"], environment, ROOT, log_path, error_path, open_files, prepared)
    else:
        with log_path.open("wb") as log, error_path.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "msd", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=errors
            )
    try:
        port = _await_port(process, log_path, error_path)
        service = LiveService(f"http://127.0.0.1:{port}", port, process, log_path)
        if wait_ready:
            wait_until(lambda: service.ready()["ready"])
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE_S)
            finally:
                process.kill()


def _set_limits(bounds: Mapping[str, object], prepare: Callable[[], None] | None) -> None:
    """Set limits in a new process, then prepare it. It looks at its files often: tests wait for what it then does."""
    from service import watched_files
    from service.deployment import rollout

    watched_files.PERIOD_S = rollout._EVERY_S = 0.1
    for name, value in bounds.items():
        assert hasattr(limits, name), name
        setattr(limits, name, value)
    if prepare is not None:
        prepare()


def run_msd(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """One command of the front door, to its end: here, but for those that set up the log of their whole process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSD_")}
    if arguments[0] not in _OWN_PROCESS:
        return _run_here(arguments, {**kept, **environment})
    with TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        process = ForkedProcess(arguments, {**kept, **environment}, ROOT, out, error)
        try:
            code = process.wait(_PATIENCE_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), error.read_text("utf-8"))


def _run_here(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """What it would be in a process of its own, without that one's second of imports."""
    before, code = dict(os.environ), 0
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as error:
        try:
            _set_environment(environment)
            main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            _set_environment(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), error.getvalue())


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def wait_until(is_done: Any, patience_s: float = _PATIENCE_S) -> None:  # noqa: ANN401 - any callable with a truth value
    """Waits for something that has to come; a failed connection counts as not yet."""
    start = time.monotonic()
    while True:
        try:
            if is_done():
                return
        except httpx.TransportError:
            pass
        waited = time.monotonic() - start
        assert waited < patience_s, "what was waited for did not come"
        # What takes long is looked at less often: each look may be a request.
        time.sleep(min(0.01 + waited / 10, 0.2))


def freeze(pid: int) -> None:
    """SIGSTOP, until it is heeded: while the main thread waits for a processor, the others go on."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T"))


@cache
def _without_proof() -> ssl.SSLContext:
    """Takes any certificate for good; made once, which takes as long as a request."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _await_port(process: Process, log_path: Path, error_path: Path) -> int:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        for line in log_path.read_text("utf-8").splitlines():
            if line.endswith("}") and json.loads(line).get("event") == "listening":
                return int(json.loads(line)["port"])
        assert process.poll() is None, f"the service ended: {error_path.read_text()}"
        time.sleep(0.02)
    raise AssertionError("the service does not listen")
