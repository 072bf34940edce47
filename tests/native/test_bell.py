"""The bell that wakes the front's thread: rung once or often, it is answered, and leaves no byte that nobody reads."""

import fcntl
import os
import socket
import termios
from pathlib import Path

from service.http.server import front_of
from service.scoring.engine import ScoringEngine
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.live import wait_until


def pipes() -> dict[int, str]:
    """The pipes that this process has open, by their descriptors."""
    links = {int(path.name): os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_fifo()}
    return {descriptor: link for descriptor, link in links.items() if link.startswith("pipe:")}


def test_byte_that_comes_after_the_thread_has_looked_is_read() -> None:
    """As if whoever rings were stopped before their byte is written. Else it would wake the thread again and again."""
    engine = ScoringEngine(Metrics(), 1)
    others = pipes()
    front = front_of(Settings(bundle=Path("b")), engine.native)
    own = {descriptor: link for descriptor, link in pipes().items() if descriptor not in others}
    reads, writes = sorted(descriptor for descriptor, link in own.items() if link != own[front.descriptor])
    ours, theirs = socket.socketpair()
    with theirs:
        front.adopt(ours.detach(), False)
        byte = os.read(reads, 1)
        front.start(-1)
        wait_until(lambda: front.connections == 1)
        os.write(writes, byte)
        wait_until(lambda: not any(fcntl.ioctl(reads, termios.FIONREAD, bytes(4))))
    front.stop()
    engine.close()
