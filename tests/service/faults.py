"""The runs of a service's model, which a test may hold or slow down: what is to be seen only while requests are at work
can then be looked at in peace, whatever the machine's pace."""

import ctypes
import fcntl
import signal
import sys
import time
from asyncio.runners import Runner
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from msd.contract.assemble import Tensors
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.runtime import Scores

RUN = Runner.run.__code__
"""Its callbacks are the event loop's."""
_LONG = 300


def run_in_python() -> None:
    """Has this process run all models by Python's method, as the runtimes that have no other way."""
    init = OnnxRuntime.__init__

    def made(runtime: OnnxRuntime, *given: Any) -> None:  # noqa: ANN401 - whatever it takes
        init(runtime, *given)
        runtime.native = None

    setattr(OnnxRuntime, "__init__", made)  # noqa: B010 - a method, for all that are made from now on


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

        run_in_python()
        setattr(OnnxRuntime, "run", heeding)  # noqa: B010 - a method, for all that are made from now on


class LoopWork:
    """A file of how many calls each long callback of a service's event loop made: what holds it, whatever the pace."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "calls"
        self.path.touch()

    def most(self) -> int:
        """The most calls of one callback since the last time."""
        found = [int(line) for line in self.path.read_text().split()]
        self.path.write_text("")
        return max(found, default=0)

    def obey(self) -> None:
        """Has this process, which is the service, count its main thread's calls from now on."""
        calls, file = 0, self.path.open("a")

        def count(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls
            if event == "call" and frame.f_back is not None and frame.f_back.f_code is RUN:
                if calls > _LONG:
                    print(calls, file=file, flush=True)
                calls = 0
            calls += event in ("call", "c_call")

        sys.setprofile(count)


IN_PYTHON, IN_C, WITH_LOCK = signal.SIGUSR1, signal.SIGALRM, signal.SIGUSR2
_lock = ctypes.create_string_buffer(256)  # zeroes are an unlocked mutex


def _hang(*_: object) -> None:
    while True:
        time.sleep(3_600)


def _deadlock(number: int, _: object) -> None:
    library = (ctypes.PyDLL if number == WITH_LOCK else ctypes.CDLL)(None)
    library.pthread_mutex_lock(_lock)
    library.pthread_mutex_lock(_lock)


def hang_on_signals() -> None:
    """Has this process, which is the service, obey them."""
    signal.signal(IN_PYTHON, _hang)
    signal.signal(IN_C, _deadlock)
    signal.signal(WITH_LOCK, _deadlock)
