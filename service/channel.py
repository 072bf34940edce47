"""What supervisor and worker say to each other, over a pair of sockets: connections and commands down, one answer up.

When either process ends, however it does, the other finds the channel at its end.
"""

import os
import socket
from typing import Literal

_CONNECTION, _DRAIN = b"c", b"d"
_SERVING, _FAILED = b"+", b"-"
_MAX_ANSWER = 65_536

Command = socket.socket | Literal["drain", "end", "lost"]
"""A connection that is `lost` came when the process had as many open files as it may have: the kernel has closed it."""


class SupervisorEnd:
    """The supervisor's end. Nothing that it does waits for the worker."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._answer = b""

    def hand_over(self, connection: socket.socket) -> bool:
        """Gives the worker a client's connection; False when there is no room for more on the way to it.

        Raises ConnectionError when it takes no more, or has ended.
        """
        try:
            socket.send_fds(self.socket, [_CONNECTION], [connection.fileno()])
        except ConnectionError:
            raise
        except OSError:
            return False
        return True

    def drain(self) -> None:
        """Asks the worker to say that it wants no more; it still gets what comes."""
        self._tell(_DRAIN)

    def finish(self) -> None:
        """No connection will come any more: the worker answers who is in, and ends."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def answer(self) -> str | None:
        """What the worker said since it was last asked: nothing yet (None), that it serves (""), or why it cannot.

        Raises EOFError when the worker has ended.
        """
        try:
            data = self.socket.recv(_MAX_ANSWER)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._answer += data
        if not self._answer.endswith(b"\n"):
            return None
        said, self._answer = self._answer[:-1], b""
        return "" if said == _SERVING else said[1:].decode("utf-8", "replace")

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
        self._say(_SERVING)
        self.socket.setblocking(False)

    def failed(self, reason: str) -> None:
        """The worker cannot serve, and ends."""
        self._say(_FAILED + reason.encode("utf-8", "replace"))

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
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
        return connection

    def take_no_more(self) -> None:
        """Makes the supervisor give new connections to others; what it gave before can still be read."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            return

    def _say(self, what: bytes) -> None:
        try:
            self.socket.sendall(what + b"\n")
        except OSError:  # no supervisor any more, as the first command will tell
            return
