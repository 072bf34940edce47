"""Buildah, which builds and runs images without a daemon. It has no option for a read-only root or a user without
privileges: a shell inside the container sets up both, and is then replaced by the service."""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from image.command import ImageError, output_of, tail_of
from image.engine import USER, Inspected

_PATIENCE_S = 60.0
_CONFINE = (
    "mount -o remount,bind,ro / && mount -t tmpfs tmpfs /tmp && {told}exec setpriv --reuid {uid} --regid {gid}"
    ' --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"'
)
# On SIGTERM, Buildah kills its command outright, so the service's process needs the signal directly.
_TELL_ID = "echo $$ && "


class Buildah:
    """Buildah's command line. Environment variables (STORAGE_DRIVER, BUILDAH_ISOLATION, …) configure where it keeps
    images and how it isolates processes."""

    name = "buildah"

    def build(self, target: str, tag: str, options: Sequence[str]) -> list[str]:
        """See ContainerEngine. Only Docker's image format has HEALTHCHECK."""
        return ["buildah", "build", "--format", "docker", *_limits(), "--target", target, "--tag", tag, *options, "."]

    def inspect(self, image: str) -> Inspected:
        """See ContainerEngine."""
        found = json.loads(output_of(["buildah", "inspect", "--type", "image", image]))
        return Inspected(found["Docker"]["config"], found["OCIv1"]["rootfs"]["diff_ids"])

    def save(self, image: str, archive: Path) -> list[str]:
        """See ContainerEngine."""
        return ["buildah", "push", image, f"docker-archive:{archive}:{image}"]

    @contextmanager
    def run(self, image: str, bundle: Path, settings: Mapping[str, str], log: Path) -> Iterator["BuildahContainer"]:
        """See ContainerEngine."""
        command = self.inspect(image).command
        name = output_of(["buildah", "from", "--pull=never", *_limits(), image]).strip()
        # If the storage driver copies layers, this one is still being written to disk, and the start would wait.
        os.sync()
        try:
            container = BuildahContainer(name, bundle, settings, command, log)
            try:
                yield container
            finally:
                if container.process.poll() is None:
                    container.stop()
        finally:
            output_of(["buildah", "rm", name])


class BuildahContainer:
    """See Container."""

    def __init__(self, name: str, bundle: Path, settings: Mapping[str, str], command: Sequence[str], log: Path) -> None:
        self._confined = [
            *("buildah", "run", "--network", "host", "--user", "0:0", "--cap-add", "CAP_SYS_ADMIN"),
            *("--volume", f"{bundle}:/bundle:ro"),
            *(part for key, value in settings.items() for part in ("--env", f"{key}={value}")),
            *(name, "--", "sh", "-c"),
        ]
        self._log = log
        with log.open("wb") as file:
            self.began = time.perf_counter()
            self.process = subprocess.Popen(
                [*self._confined, _confine(_TELL_ID), "sh", *command], stdout=file, stderr=subprocess.STDOUT
            )

    def ask(self, command: Sequence[str]) -> str:
        """See Container. The command has a process tree of its own; otherwise it is confined as the service is."""
        return output_of([*self._confined, _confine(), "sh", *command])

    def stop(self) -> int:
        """See Container."""
        os.kill(self._service_id(), signal.SIGTERM)
        return self.process.wait(_PATIENCE_S)

    def _service_id(self) -> int:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            first, *others = self._log.read_text("utf-8", "replace").split("\n", 1)
            if others:
                return int(first)
            time.sleep(0.01)
        raise ImageError(f"buildah did not start the command:\n{tail_of(self._log)}")


def _confine(told: str = "") -> str:
    uid, gid = USER.split(":")
    return _CONFINE.format(told=told, uid=uid, gid=gid)


def _limits() -> list[str]:
    """Return this process's limits as options: by default Buildah would raise them, and fail without the right to."""
    options = []
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        soft, hard = resource.getrlimit(limit)
        options += ["--ulimit", f"{name}={soft}:{hard}"]
    return options
