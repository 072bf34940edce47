"""What supervisor and worker say to each other, over a pair of sockets: connections and commands down, words up.

When either process ends, however it does, the other finds the channel at its end.
"""

import os
import socket
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

_CONNECTION, _DRAIN, _LOAD = b"c", b"d", b"l"
_MAX_WORDS = 65_536


@dataclass(frozen=True)
class Load:
    """The plan of a line-up is to be loaded; its file is for the worker to close."""

    descriptor: int


Command = socket.socket | Load | Literal["drain", "end", "lost"]
"""A connection that is `lost` came when the process had as many open files as it may have: the kernel has closed it."""


class Said(BaseModel):
    """A worker's word: that it serves; that it cannot, and why; that it has loaded the line-up of a generation; or that
    it has not, why, and whether it is worth trying again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Literal["serving", "failed", "loaded", "refused"]
    generation: int = 0
    reason: str = ""
    again: bool = False


class SupervisorEnd:
    """The supervisor's end. Nothing that it does waits for the worker."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._unended = b""

    def hand_over(self, connection: socket.socket) -> bool:
        """Gives the worker a client's connection; False when there is no room for more on the way to it.

        Raises ConnectionError when it takes no more, or has ended.
        """
        return self._send_with(_CONNECTION, connection.fileno())

    def drain(self) -> None:
        """Asks the worker to say that it wants no more; it still gets what comes."""
        self._tell(_DRAIN)

    def finish(self) -> None:
        """No connection will come any more: the worker answers who is in, and ends."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def load(self, descriptor: int) -> bool:
        """Has the worker load the plan in an open file; False when there is no room for more on the way to it.

        Raises ConnectionError as `hand_over` does.
        """
        return self._send_with(_LOAD, descriptor)

    def words(self) -> list[Said]:
        """What the worker said since it was last asked. Raises EOFError when it has ended."""
        try:
            data = self.socket.recv(_MAX_WORDS)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        *lines, self._unended = (self._unended + data).split(b"\n")
        return [Said.model_validate_json(line) for line in lines]

    def _send_with(self, what: bytes, descriptor: int) -> bool:
        try:
            socket.send_fds(self.socket, [what], [descriptor])
        except ConnectionError:
            raise
        except OSError:
            return False
        return True

    def _tell(self, command: bytes) -> None:
        try:
            self.socket.send(command)
        except OSError:  # it ends anyway, and the end of the channel says so
            return


class WorkerEnd:
    """The worker's end."""

    def __init__(self, file_descriptor: int) -> None:
        os.set_inheritable(file_descriptor, False)
        self.socket = socket.socket(fileno=file_descriptor)

    def serving(self) -> None:
        """From now on commands are read."""
        self.say(Said(what="serving"))
        self.socket.setblocking(False)

    def failed(self, reason: str) -> None:
        """The worker cannot serve, and ends."""
        self.say(Said(what="failed", reason=reason))

    def next(self) -> Command | None:
        """The next command, None when there is none yet."""
        try:
            # A byte at a time: the bytes are few, and each connection comes with its own.
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1, 1)
        except BlockingIOError:
            return None
        except OSError:
            data, descriptors = b"", []
        if not data:
            return "end"
        if data == _DRAIN:
            return "drain"
        if not descriptors:
            return "lost"
        if data == _LOAD:
            os.set_inheritable(descriptors[0], False)
            return Load(descriptors[0])
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
        return connection

    def take_no_more(self) -> None:
        """Makes the supervisor give new connections to others; what it gave before can still be read."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            return

    def say(self, word: Said) -> None:
        """Says it, if there is somebody to hear it."""
        try:
            self.socket.sendall(word.model_dump_json().encode("utf-8", "replace") + b"\n")
        except OSError:  # no supervisor any more, as the next command will tell
            return
