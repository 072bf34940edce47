"""The runs of a service's model, which a test may hold or slow down: what is to be seen only while requests are at work
can then be looked at in peace, whatever the machine's pace. The services import this, so it imports little itself.
"""

import asyncio
import ctypes
import fcntl
import signal
import sys
import threading
import time
from asyncio.runners import Runner
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from msd.contract.tensors import Tensors
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.runtime import Scores
from service.telemetry.logs import LineWriter
from tests.service.live import ROOT

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

        def heeding(runtime: OnnxRuntime, tensors: Tensors, is_aside: bool = False) -> Scores:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                seconds = float(file.read() or 0)
            time.sleep(seconds * max(map(len, tensors.values())))
            return run(runtime, tensors, is_aside)

        run_in_python()
        setattr(OnnxRuntime, "run", heeding)  # noqa: B010 - a method, for all that are made from now on


class LogWrites:
    """A file that each write of the request log locks for a moment before it begins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "writes"
        self.path.touch()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No write begins before the block's end."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def obey(self) -> None:
        """Has this process, which is the service, heed the file in all its writes."""
        from service.request_log.files import LogFolder

        add = LogFolder.add

        def heeding(folder: LogFolder, kind: str, data: bytes | memoryview) -> None:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
            add(folder, kind, data)

        setattr(LogFolder, "add", heeding)  # noqa: B010 - a method, for all that are made from now on


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


def obey_with_a_slow_log(runs: ModelRuns) -> None:
    """Has this process, the service, heed the file, and take its time for each line of its log."""
    runs.obey()
    is_written = LineWriter._is_written

    def is_written_late(writer: LineWriter, line: bytes) -> bool:
        time.sleep(0.01)
        return is_written(writer, line)

    setattr(LineWriter, "_is_written", is_written_late)  # noqa: B010 - a method, for all that are made from now on


SERVICE = f"{ROOT}/service/"
SERVERS = (f"{SERVICE}http/server.py", f"{SERVICE}server/scoring_server.py")
# What goes on beside requests; the last return free memory, about once a second.
BESIDE = ("rollout", "look-", "watchdog", "log-lines", "asyncio_")


def watch(way: Path) -> None:
    """In this process, the service, write each file that requests run, from SIGUSR1 on."""
    files: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if files and event == "call" and name.startswith(SERVICE) and name not in files and not _is_beside(frame):
            files[name] = None
            with way.open("a", encoding="utf-8") as file:
                file.write(f"{name.removeprefix(SERVICE)}\n")

    def begin() -> None:
        files["begins"] = None
        way.write_text("begins\n", "utf-8")

    def begin_soon(number: int, frame: object) -> None:
        # The loop may still be in the last lines of an earlier request, whose reply has come.
        asyncio.get_running_loop().call_soon_threadsafe(begin)

    signal.signal(signal.SIGUSR1, begin_soon)
    threading.setprofile(note)
    sys.setprofile(note)


def _is_beside(frame: FrameType | None) -> bool:
    if threading.current_thread().name.startswith(BESIDE):
        return True
    # The server accepts connections, and checks them some times a second.
    while frame is not None and frame.f_code.co_filename not in SERVERS:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name != "run"
