"""One worker as its supervisor sees it: a fresh process, the channel to it, and how it ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from service.channel import SupervisorEnd
from service.exchange import Exchange, SharedNumbers
from service.lineup.plan import Plan
from service.settings import PREFIX, Settings

# numpy's and other libraries' own pools of threads, which are made when they are loaded.
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerProcess:
    """A worker in one slot. It inherits the channel, the shared numbers, its plan, its settings, and the exchange."""

    def __init__(
        self,
        settings: Settings,
        numbers: SharedNumbers,
        slot: int,
        plan: Plan,
        side_folder: Path | None,
        exchange: Exchange | None,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.slot = slot
        self.channel = SupervisorEnd(ours)
        self.is_serving = False
        self.reason = ""
        self.handed = 0
        self.last_at = 0.0
        self.started_at = time.monotonic()
        self.generation = plan.generation
        """The newest that it has loaded, or begins with."""
        self._row = numbers.rows[slot]
        planned = plan.descriptor()
        inherited = (theirs.fileno(), numbers.file_descriptor, planned)
        shared = exchange.descriptors if exchange else ()
        arguments = (side_folder or "", *inherited, numbers.slots, slot, *shared)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "service.worker", *map(str, arguments)],
                    env=child_environment(settings),
                    pass_fds=(*inherited, *shared),
                    # A terminal's ^C is for the supervisor alone, which then drains.
                    process_group=0,
                )
        finally:
            os.close(planned)
        self.pid = self._process.pid

    def number(self, place: int) -> float:
        """A number that the worker shares."""
        return self._row[place]

    def take(self, connection: socket.socket) -> bool:
        """Gives it a connection; False when it cannot take one now, or at all."""
        try:
            if not self.channel.hand_over(connection):
                return False
        except ConnectionError:
            self.is_serving = False
            return False
        self.handed += 1
        self.last_at = time.monotonic()
        return True

    def drain(self) -> None:
        """Asks it to say that it wants no more; one that does not serve yet has nothing to end."""
        if self.is_serving:
            self.channel.drain()
        else:
            self._process.terminate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def wait(self) -> tuple[str, float]:
        """How it ended, in words, and the seconds of processor time that it took."""
        self.channel.socket.close()
        return ended_by(self._process)


def ended_by(process: "subprocess.Popen[bytes]") -> tuple[str, float]:
    """Waits for a process. How it ended, in words, and the seconds of processor time that it took."""
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    return (_signal(-code) if code < 0 else f"status {code}"), usage.ru_utime + usage.ru_stime


def child_environment(settings: Settings) -> dict[str, str]:
    """What a process of this service gets as its environment: its own settings and no others of that prefix."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # The same modules as here, and none that happens to lie in the folder that the service was started from.
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "PYTHONPATH": path, **dict.fromkeys(_POOLS, str(settings.threads)), **settings.environ()}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
