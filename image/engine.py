"""Interface of container engines, and the choice of an installed one."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from image.command import ImageError

USER = "10001:10001"


@dataclass(frozen=True)
class Inspected:
    """An image's configuration under Docker's names, and the digests of its layers, the base's first."""

    config: dict[str, Any]
    layers: list[str]

    @property
    def command(self) -> list[str]:
        """Command that the image runs by default."""
        return [*(self.config.get("Entrypoint") or ()), *(self.config.get("Cmd") or ())]


class Container(Protocol):
    """A container that runs an image's own command: read-only root, user USER without capabilities, /tmp in memory, a
    bundle at /bundle."""

    process: "subprocess.Popen[bytes]"
    began: float
    """Start time of its command, by `time.perf_counter`."""

    def ask(self, command: Sequence[str]) -> str:
        """Run another command in the container and return its output. Raises ImageError if it fails."""
        ...

    def stop(self) -> int:
        """Send SIGTERM and return the command's exit status."""
        ...


class ContainerEngine(Protocol):
    """An engine that builds and runs images."""

    name: str

    def build(self, target: str, tag: str, options: Sequence[str]) -> list[str]:
        """Return the command that builds a target of ./Dockerfile."""
        ...

    def inspect(self, image: str) -> Inspected:
        """Return an image's configuration and layers. Raises ImageError if there is no such image."""
        ...

    def save(self, image: str, archive: Path) -> list[str]:
        """Return the command that writes an image to a file in Docker's format."""
        ...

    def run(
        self, image: str, bundle: Path, settings: Mapping[str, str], log: Path
    ) -> AbstractContextManager[Container]:
        """Run the image's own command, which listens on the settings' port; stop it at the end of the block at the
        latest."""
        ...


def find_engine(name: str | None = None) -> ContainerEngine:
    """Return the engine with this name, or the first that answers. Raises ImageError if there is none."""
    from image.buildah import Buildah
    from image.docker import Docker

    for candidate in (name,) if name else ("docker", "podman", "buildah"):
        # A client without its daemon has a version, but no information.
        if (
            shutil.which(candidate)
            and not subprocess.run([candidate, "info"], capture_output=True, check=False).returncode
        ):
            return Buildah() if candidate == "buildah" else Docker(candidate)
    raise ImageError(
        f"{name} is not here, or does not answer (`{name} info`)"
        if name
        else "no engine for containers answers: install docker, podman or buildah (which needs no daemon)"
    )
