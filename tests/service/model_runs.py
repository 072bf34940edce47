"""The runs of a service's model, which a test may hold or slow down: what is to be seen only while requests are at work
can then be looked at in peace, whatever the machine's pace."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msd.contract.assemble import Tensors
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.runtime import Scores


class ModelRuns:
    """A file that each run locks for a moment before it begins; it says how long each candidate takes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runs"
        self.path.touch()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No run begins before the block's end; one that has begun goes on."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def let_others_pass(self) -> None:
        """Runs that are held stay so until their block's end; others are not."""
        self.path.unlink()
        self.path.touch()

    def slow_down(self, seconds: float) -> None:
        """From now on a run takes so long for each candidate, and none of the processor's time."""
        self.path.write_text(str(seconds))

    def obey(self) -> None:
        """Has this process, which is the service, heed the file in all its runs."""
        run = OnnxRuntime.run

        def heeding(runtime: OnnxRuntime, tensors: Tensors) -> Scores:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                seconds = float(file.read() or 0)
            time.sleep(seconds * max(map(len, tensors.values())))
            return run(runtime, tensors)

        setattr(OnnxRuntime, "run", heeding)  # noqa: B010 - a method, for all that are made from now on
