"""Docker, and Podman, which has the same command line."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from image.command import output_of
from image.engine import USER, Inspected

_STOP_S = 30


class Docker:
    """Command line of Docker or Podman."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, target: str, tag: str, options: Sequence[str]) -> list[str]:
        """See ContainerEngine. Only Docker's image format has HEALTHCHECK, and it is not Podman's default."""
        form = ["--format", "docker"] if self.name == "podman" else []
        return [self.name, "build", *form, "--target", target, "--tag", tag, *options, "."]

    def inspect(self, image: str) -> Inspected:
        """See ContainerEngine."""
        found = json.loads(output_of([self.name, "image", "inspect", image]))[0]
        return Inspected(found["Config"], found["RootFS"]["Layers"])

    def save(self, image: str, archive: Path) -> list[str]:
        """See ContainerEngine."""
        return [self.name, "save", "--output", str(archive), image]

    @contextmanager
    def run(self, image: str, bundle: Path, settings: Mapping[str, str], log: Path) -> Iterator["DockerContainer"]:
        """See ContainerEngine."""
        name, port = f"msd-ctr-{os.getpid()}-{settings['MSD_PORT']}", settings["MSD_PORT"]
        command = [
            *(self.name, "run", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:{port}"),
            *("--read-only", "--tmpfs", "/tmp", "--user", USER, "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--volume", f"{bundle}:/bundle:ro"),
            *(part for key, value in settings.items() for part in ("--env", f"{key}={value}")),
            *(("--gpus", "all") if Path("/dev/nvidia0").exists() and settings.get("MSD_PROVIDER") != "cpu" else ()),
            image,
        ]
        with log.open("wb") as file:
            container = DockerContainer(
                self.name, name, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            )
            try:
                yield container
            finally:
                if container.process.poll() is None:
                    container.stop()


class DockerContainer:
    """See Container."""

    def __init__(self, engine: str, name: str, process: "subprocess.Popen[bytes]") -> None:
        self._engine, self._name = engine, name
        self.process, self.began = process, time.perf_counter()

    def ask(self, command: Sequence[str]) -> str:
        """See Container."""
        return output_of([self._engine, "exec", self._name, *command])

    def stop(self) -> int:
        """See Container."""
        output_of([self._engine, "stop", "--time", str(_STOP_S), self._name])
        return self.process.wait(_STOP_S)
