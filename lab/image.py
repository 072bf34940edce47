"""`python -m lab.image`: builds the container image, runs it as in production, checks and measures it.

Prints the results as JSON; `--out` gets them, too, with logs and the bill of materials. Exit status 2 if an image
cannot be built, is unfit to serve, too large or too slow.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from loadtest.http_client import ServiceConnection, wait_until
from msd.contract.bundle import GOLDENS, MANIFEST
from msd.contract.errors import MsdError
from msd.contract.golden import Golden, read_goldens
from msd.free_port import free_port

_UID = "10001"
_MAX_CPU_BYTES = 365_000_000
_MAX_START_S = 3.0
# The first start reads the image from disk, and other load can slow a start: the fastest one counts.
_STARTS = 3
_TOLERANCE = 1e-5
_PATIENCE_S = 120.0
# Only the scores matter: a busy machine may take its time.
_HEADERS = {"Content-Type": "application/json", "X-Deadline-Ms": "30000"}
_TAIL_LINES = 15
# Buildah has no option for a read-only root or a user without privileges: a shell sets up both. On SIGTERM it would
# kill its command outright, so the service's process gets the signal, by its ID in the first line of the log.
_CONFINE = (
    "mount -o remount,bind,ro / && mount -t tmpfs tmpfs /tmp && echo $$ && exec setpriv --reuid $UID --regid $UID"
    ' --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"'
).replace("$UID", _UID)
# Runs inside the image: each optional part is imported or used as the service does, so that missing files are found.
_INSIDE = """
import importlib.util, json, os, pathlib, shutil
def writable(folder):
    try:
        pathlib.Path(folder, ".msd-try").touch()
    except OSError:
        return False
    return True
import cryptography.hazmat.primitives.asymmetric.ed25519, lmdb, obstore, pyarrow.parquet, tokenizers
if importlib.util.find_spec("openvino"):
    import openvino
    core = openvino.Core()
    assert core.compile_model(core.read_model("/bundle/ranker.onnx"), "CPU").outputs
print(json.dumps({
    "root": os.getuid() == 0,
    "writable": [folder for folder in ("/", "/opt/msd", "/etc", "/var", "/bundle") if writable(folder)],
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "ld", "make") if shutil.which(name)],
    "torch": importlib.util.find_spec("torch") is not None,
}))
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class ImageError(MsdError):
    """An image cannot be built, or does not work as required."""


class Container(NamedTuple):
    """A running container, ready after `start_s`. `inside` runs another command in it, `stop` sends SIGTERM."""

    process: "subprocess.Popen[bytes]"
    client: ServiceConnection
    start_s: float
    inside: Sequence[str]
    stop: Callable[[], object]


@dataclass(frozen=True)
class Engine:
    """Command line of Docker, Podman or Buildah, which needs no daemon."""

    name: str

    def build(self, target: str, image: str, values: dict[str, str], options: Sequence[str], log: Path) -> None:
        """Build a target of ./Dockerfile. Only Docker's image format has HEALTHCHECK."""
        form = () if self.name == "docker" else ("--format", "docker")
        arguments = [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]
        command = [self.name, "build", *form, "--target", target, "--tag", image, *arguments, *options, "."]
        with log.open("wb") as file:
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                raise ImageError(f"the build failed; {log} ends so:\n{_tail(log)}")

    @contextmanager
    def run(self, image: str, bundle: Path, log: Path) -> Iterator[Container]:
        """Run `msd serve` with a read-only root, without privileges, the bundle at /bundle; without a GPU, by its CPU
        provider. Raises ImageError if it does not become ready."""
        port, has_gpu = free_port(), Path("/dev/nvidia0").exists()
        name = f"msd-ctr-{os.getpid()}-{port}"
        shared = ["--volume", f"{bundle}:/bundle:ro", "--env", f"MSD_PORT={port}"]
        shared += [] if has_gpu else ["--env", "MSD_PROVIDER=cpu"]
        if self.name == "buildah":
            _output("buildah", "from", "--pull=never", "--name", name, image)
            # If the storage driver copies layers, this one is still being written to disk, and the start would wait.
            os.sync()
            rights = ["--network", "host", "--user", "0:0", "--cap-add", "CAP_SYS_ADMIN"]
            inside = ["buildah", "run", *rights, *shared, name, "--", "sh", "-c", _CONFINE, "sh"]
            command = [*inside, "msd", "serve"]
        else:
            inside = [self.name, "exec", name]
            command = [
                *(self.name, "run", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:{port}", *shared),
                *("--read-only", "--tmpfs", "/tmp", "--user", f"{_UID}:{_UID}", "--cap-drop", "ALL"),
                *("--security-opt", "no-new-privileges", *(("--gpus", "all") if has_gpu else ()), image),
            ]

        def stop() -> None:
            if self.name == "buildah":
                os.kill(int(log.read_text("utf-8", "replace").split("\n", 1)[0]), signal.SIGTERM)
            else:
                _output(self.name, "stop", "--time", "30", name)

        def is_ready() -> bool:
            if process.poll() is not None:
                raise ImageError(f"the service ended before it was ready:\n{_tail(log)}")
            return client.get("/health/ready").status == 200

        start = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            with ServiceConnection(f"http://127.0.0.1:{port}") as client:
                wait_until(f"{image} is ready", is_ready, _PATIENCE_S)
                yield Container(process, client, time.perf_counter() - start, inside, stop)
        finally:
            if process.poll() is None:
                stop()
                process.wait(_PATIENCE_S)
            if self.name == "buildah":
                _output("buildah", "rm", name)


@app.command()
def main(
    target: Annotated[list[str] | None, typer.Option(help="cpu or gpu; may be given twice. Default: cpu.")] = None,
    bundle: Annotated[Path, typer.Option(help="The bundle to serve.")] = Path("runs/demo/bundle"),
    engine: Annotated[str, typer.Option(help="Engines to try, comma-separated.")] = "docker,podman,buildah",
    base: Annotated[str, typer.Option(help="The image to build on.")] = "python:3.13-slim-trixie",
    build_option: Annotated[list[str] | None, typer.Option(help="An option for the engine's build.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for logs, bills of materials and figures.")] = Path("runs/image"),
) -> None:
    """Build, check and measure the image."""
    try:
        found = find_engine(engine.split(","))
        if not (bundle / MANIFEST).is_file():
            raise ImageError(f"{bundle}: no bundle here; `make demo` makes one, --bundle names another")
        out.mkdir(parents=True, exist_ok=True)
        project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
        revision = _output("git", "describe", "--always", "--dirty").strip()
        created = datetime.now(UTC).isoformat(timespec="seconds")
        labels = {"VERSION": project["version"], "REVISION": revision, "CREATED": created}
        for name in target or ["cpu"]:
            image = f"msd-ctr:{name}"
            found.build(name, image, labels | {"PYTHON": base}, build_option or (), out / f"{name}.build.log")
            figures = {"image": image, "engine": found.name, **_contents(found, image, base, out / name)}
            if name == "cpu" and figures["bytes_over_base"] > _MAX_CPU_BYTES:
                raise ImageError(
                    f"{image}: {figures['bytes_over_base']:,} bytes over its base; limit {_MAX_CPU_BYTES:,}"
                )
            text = json.dumps(figures | _trial(found, image, bundle.resolve(), out / f"{name}.log"), indent=2)
            (out / f"{name}.json").write_text(text + "\n")
            typer.echo(text)
    except MsdError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def find_engine(names: Sequence[str]) -> Engine:
    """Return the first engine that answers. Raises ImageError if there is none."""
    for name in names:
        # A client without its daemon has a version, but no information.
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return Engine(name)
    raise ImageError(f"no container engine answers (`{names[0]} info`): install docker, podman or buildah")


def _contents(engine: Engine, image: str, base: str, name: Path) -> dict[str, Any]:
    """Return the image's bytes over its base, and write its bill of materials as CycloneDX JSON."""
    archives, bill = [name.with_suffix(f".{part}.tar") for part in ("image", "base")], name.with_suffix(".cdx.json")
    try:
        for archive, saved in zip(archives, (image, base), strict=True):
            archive.unlink(missing_ok=True)
            if engine.name == "buildah":
                _output("buildah", "push", saved, f"docker-archive:{archive}:{saved}")
            else:
                _output(engine.name, "save", "--output", str(archive), saved)
        own, others = (archive.stat().st_size for archive in archives)
        syft = str(Path(sys.executable).parent / "syft")
        _output(syft, "scan", f"docker-archive:{archives[0]}", "--output", f"cyclonedx-json={bill}", "--quiet")
    finally:
        for archive in archives:
            archive.unlink(missing_ok=True)
    return {"bytes_over_base": own - others, "components": len(json.loads(bill.read_text("utf-8"))["components"])}


def _trial(engine: Engine, image: str, bundle: Path, log: Path) -> dict[str, Any]:
    """Measure starts, compare the scores of the bundle's goldens, look inside, and stop. Raises ImageError if the image
    is unfit to serve."""
    starts = []
    for _ in range(_STARTS):
        with engine.run(image, bundle, log) as container:
            starts.append(round(container.start_s, 2))
    with engine.run(image, bundle, log) as container:
        goldens = [golden for golden in read_goldens(bundle / GOLDENS) if not golden.events]
        worst = max(_difference(container.client, golden) for golden in goldens)
        model = json.loads(container.client.get("/v1/model").body)
        inside = json.loads(_output(*container.inside, "python", "-c", _INSIDE).splitlines()[-1])
        _output(*container.inside, "python", "-m", "service.probe")
        container.stop()
        if status := container.process.wait(_PATIENCE_S):
            raise ImageError(f"on SIGTERM the service ended with status {status}:\n{_tail(log)}")
    if any(inside.values()):
        raise ImageError(f"{image}: found inside: {inside}")
    if worst > _TOLERANCE:
        raise ImageError(f"{image} scores other than its bundle says, by {worst:.1e}")
    # On a GPU, requests may share runs, which Python assembles instead of the native core.
    if not model["native"]["served" if image.endswith(":cpu") else "instructions"]:
        raise ImageError(f"{image} does not serve the native core: {model['native']['reason']}")
    if min(starts) > _MAX_START_S:
        raise ImageError(f"{image} was not ready within {_MAX_START_S:g} s in any of {_STARTS} starts")
    return {"starts_s": starts, "max_abs_diff": worst, "runtime": model["runtime"], "native": model["native"]}


def _difference(client: ServiceConnection, golden: Golden) -> float:
    reply = client.post("/v1/score", json.dumps(golden.request).encode(), _HEADERS)
    reply.check(200)
    scores: list[float] = json.loads(reply.body)["candidates"]["pctr"]
    return max(abs(score - expected) for score, expected in zip(scores, golden.expected["pctr"], strict=True))


def _output(*command: str) -> str:
    """Return a command's standard output. Raises ImageError if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ImageError(f"`{' '.join(command[:3])} …` failed:\n{ended.stderr or ended.stdout}")
    return ended.stdout


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:])


if __name__ == "__main__":
    app()
