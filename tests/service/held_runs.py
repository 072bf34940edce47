"""Runs of a service's model that wait for as long as a test holds them: what is to be seen only while requests are at
work can then be looked at in peace, whatever the machine's pace."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msd.contract.assemble import Tensors
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.runtime import Scores


class HeldRuns:
    """A file that each run locks for a moment before it begins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runs"
        self.path.touch()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No run begins before the block's end; one that has begun goes on."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def obey(self) -> None:
        """Has all runs of this process, which is the service's, wait while they are held."""
        run = OnnxRuntime.run

        def held(runtime: OnnxRuntime, tensors: Tensors) -> Scores:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
            return run(runtime, tensors)

        OnnxRuntime.run = held  # type: ignore[method-assign]
