"""Trial of an image as it runs in production: start it on a bundle, compare known scores, inspect it, stop it."""

import json
import socket
import time
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from image import parts
from image.command import ImageError, tail_of
from image.engine import Container, ContainerEngine
from lab.chaos.hostile import hostile_requests
from lab.chaos.http_fuzz import FuzzResult, fuzz
from loadtest.http_client import ClientError, ServiceConnection
from msd.contract.bundle import GOLDENS
from msd.contract.golden import Golden, read_goldens

_PATIENCE_S = 120.0
# Only the scores matter here: a busy machine may take its time.
_PATIENT = {"Content-Type": "application/json", "X-Deadline-Ms": "30000"}
# The service drops an unfinished request only after its timeout, so a large number wait at once.
_FUZZ_CONNECTIONS = 64
_LOOK = """
import importlib.util, json, os, pathlib, shutil, sysconfig
def writable(folder):
    try:
        pathlib.Path(folder, ".msd-try").touch()
    except OSError:
        return False
    return True
site = pathlib.Path(sysconfig.get_path("purelib"))
print(json.dumps({
    "user": f"{os.getuid()}:{os.getgid()}",
    "writable": [folder for folder in ("/", "/opt/msd", "/etc", "/var", "/bundle") if writable(folder)],
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "ld", "make") if shutil.which(name)],
    "torch": importlib.util.find_spec("torch") is not None,
    "files": [str(path.relative_to(site)) for path in site.glob("*/**/*") if path.is_file()],
}))
"""


class TrialFigures(NamedTuple):
    """Numbers of scored requests and candidates, their largest difference from the goldens, the outcomes of invalid
    requests, and the image's content."""

    requests: int
    candidates: int
    max_abs_diff: float
    fuzzed: dict[str, int]
    """Number of invalid requests by status, or `closed`."""
    runtime: dict[str, Any]
    native: dict[str, Any]
    inside: dict[str, Any]


def try_serving(
    engine: ContainerEngine, image: str, bundle: Path, settings: Mapping[str, str], log: Path, fuzz_requests: int
) -> TrialFigures:
    """Serve the goldens and `fuzz_requests` invalid requests. Raises ImageError if the image is unfit to serve."""
    port = _free_port()
    with engine.run(image, bundle, {"MSD_PORT": str(port), **settings}, log) as container:
        goldens = list(read_goldens(bundle / GOLDENS))
        with ServiceConnection(f"http://127.0.0.1:{port}") as client:
            _wait_ready(container, client, log)
        fuzzed = _fuzz(port, goldens[0].request, fuzz_requests)
        # Fuzzing may take longer than a connection is kept alive.
        with ServiceConnection(f"http://127.0.0.1:{port}") as client:
            worst = max(_difference(client, golden) for golden in goldens)
            model = json.loads(client.get("/v1/model").body)
        inside = _look(container, _health_command(engine, image))
        if status := container.stop():
            raise ImageError(f"on SIGTERM the service ended with status {status}:\n{tail_of(log)}")
    candidates = sum(len(one.expected["pctr"]) for one in goldens)
    return TrialFigures(len(goldens), candidates, worst, fuzzed, model["runtime"], model["native"], inside)


def start_seconds(engine: ContainerEngine, image: str, bundle: Path, settings: Mapping[str, str], log: Path) -> float:
    """Return the seconds from the command that starts a container to readiness, including the engine's own work."""
    port = _free_port()
    with (
        engine.run(image, bundle, {"MSD_PORT": str(port), **settings}, log) as container,
        ServiceConnection(f"http://127.0.0.1:{port}") as client,
    ):
        _wait_ready(container, client, log)
        return time.perf_counter() - container.began


def try_refusal(engine: ContainerEngine, image: str, bundle: Path, log: Path) -> str:
    """Return the error message of an image that cannot serve here. Raises ImageError if it starts anyway."""
    with engine.run(image, bundle, {"MSD_PORT": str(_free_port())}, log) as container:
        status = container.process.wait(_PATIENCE_S)
    said = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("error: ")]
    if status != 2 or not said:
        raise ImageError(f"expected a refusal, got status {status}:\n{tail_of(log)}")
    return said[-1]


def _wait_ready(container: Container, client: ServiceConnection, log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if container.process.poll() is not None:
            raise ImageError(f"the service ended before it was ready:\n{tail_of(log)}")
        try:
            if client.get("/health/ready").status == 200:
                return
        except ClientError:
            pass
        time.sleep(0.01)
    raise ImageError(f"not ready after {_PATIENCE_S:.0f} s; the log ends so:\n{tail_of(log)}")


def _fuzz(port: int, good: dict[str, Any], number: int) -> dict[str, int]:
    if not number:
        return {}
    result: FuzzResult = fuzz(("127.0.0.1", port), hostile_requests(good, seed=1), number, _FUZZ_CONNECTIONS)
    if result.wrong:
        some = ", ".join(f"{what} × {count}" for what, count in Counter(result.wrong).most_common(5))
        raise ImageError(f"{len(result.wrong)} of {number} wrong requests were not refused as they should be: {some}")
    return {str(came): count for came, count in sorted(result.came.items(), key=str)}


def _difference(client: ServiceConnection, golden: Golden) -> float:
    reply = client.post("/v1/score", json.dumps(golden.request).encode(), _PATIENT)
    if reply.status != 200:
        raise ImageError(f"a golden of the bundle got {reply.status}: {reply.body.decode('utf-8', 'replace')}")
    scores: list[float] = json.loads(reply.body)["candidates"]["pctr"]
    return max(abs(score - known) for score, known in zip(scores, golden.expected["pctr"], strict=True))


def _look(container: Container, health: list[str]) -> dict[str, Any]:
    inside: dict[str, Any] = json.loads(container.ask(["python", "-c", _LOOK]))
    container.ask(health)
    inside["parts"] = json.loads(container.ask(["python", "-c", Path(parts.__file__).read_text("utf-8")]))
    files = set(inside.pop("files"))
    inside["missing"] = [path for path in _product_files() if path not in files]
    for name in ("missing", "writable", "compilers", "torch"):
        if inside[name]:
            raise ImageError(f"inside the image, {name}: {inside[name]}")
    return {**inside, "healthy": True}


def _product_files() -> list[str]:
    """Return all files that the wheel must have, including data for pages and teachers."""
    wheel = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    return [
        str(path)
        for package in wheel["packages"]
        for path in sorted(Path(package).rglob("*"))
        # The image compiles its own native core.
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("_core.")
    ]


def _health_command(engine: ContainerEngine, image: str) -> list[str]:
    kind, *command = [str(part) for part in engine.inspect(image).config["Healthcheck"]["Test"]]
    if kind != "CMD":
        raise ImageError(f"the health check needs a shell: {kind}")
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
