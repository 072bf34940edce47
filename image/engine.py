"""What an engine of containers has to be able to do here, and which one there is."""

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
        """What is run where nothing else is said."""
        return [*(self.config.get("Entrypoint") or ()), *(self.config.get("Cmd") or ())]


class Container(Protocol):
    """One with an image's own command in it: its root read-only, its user USER without capabilities, /tmp in memory, a
    bundle at /bundle."""

    process: "subprocess.Popen[bytes]"
    began: float
    """When its command was given (time.perf_counter)."""

    def ask(self, command: Sequence[str]) -> str:
        """What another command in it says. Raises ImageError when it fails."""
        ...

    def stop(self) -> int:
        """The status that the command ends with on SIGTERM."""
        ...


class ContainerEngine(Protocol):
    """Builds images and runs them."""

    name: str

    def build(self, target: str, tag: str, options: Sequence[str]) -> list[str]:
        """The command that builds a target of ./Dockerfile."""
        ...

    def inspect(self, image: str) -> Inspected:
        """What an image is. Raises ImageError when it is not there."""
        ...

    def save(self, image: str, archive: Path) -> list[str]:
        """The command that writes an image into a file of Docker's format."""
        ...

    def run(
        self, image: str, bundle: Path, settings: Mapping[str, str], log: Path
    ) -> AbstractContextManager[Container]:
        """Runs the image's own command, which listens on the settings' port; it ends with the block at the latest."""
        ...


def find_engine(name: str | None = None) -> ContainerEngine:
    """The engine of a name, or the first that answers. Raises ImageError where there is none."""
    from image.buildah import Buildah
    from image.docker import Docker

    for candidate in (name,) if name else ("docker", "podman", "buildah"):
        # A client without its daemon has a version, and no information.
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
