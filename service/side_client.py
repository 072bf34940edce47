"""A worker's connection to one side process, made anew by itself. That the process is away is an error like another:
it is said at once, and nothing waits longer than its time limit.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from service.frames import MAX_FRAME_BYTES, FrameProtocol

_PAUSE_S = 0.05


class SideError(Exception):
    """The side process is not there, went away, or did not answer in time. Whether it did what it was asked is unknown
    unless `is_unsent`."""

    def __init__(self, message: str, is_unsent: bool = False) -> None:
        super().__init__(message)
        self.is_unsent = is_unsent


class SideClient:
    """Asks one side process, by the socket that it listens on. Connects when it is first used, and when it has to."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_try = 0.0
        self._number = 0

    async def ask(self, payload: bytes, timeout_s: float) -> bytes:
        """The reply to a message of at most MAX_FRAME_BYTES. Replies need not come in the order of questions.

        Raises SideError.
        """
        is_unsent = True
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._connected()
                is_unsent = False
                return await self._send(line, payload)
        except TimeoutError:
            raise SideError(f"the {self._name} did not answer within {timeout_s * 1000:g} ms", is_unsent) from None

    def tell(self, payload: bytes, max_waiting_bytes: int) -> bool:
        """Sends a message that wants no reply, without waiting. False where it is lost: there is no connection, or more
        than `max_waiting_bytes` have not left yet."""
        if self._line is None:
            self._begin()
            return False
        if self._line.waiting_bytes() + len(payload) > max_waiting_bytes:
            return False
        self._line.send(0, _checked(payload))
        return True

    async def close(self) -> None:
        """Ends the connection; whoever waits hears of it."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._line is not None:
            self._line.end()

    def _send(self, line: "_Line", payload: bytes) -> "asyncio.Future[bytes]":
        self._number = self._number % (2**32 - 1) + 1
        return line.ask(self._number, _checked(payload))

    async def _connected(self) -> "_Line":
        if self._line is None:
            self._begin()
            if self._connecting is not None:
                await asyncio.shield(self._connecting)
        if self._line is None:
            raise SideError(f"the {self._name} is not there", is_unsent=True)
        return self._line

    def _begin(self) -> None:
        """Connects, unless that failed a moment ago."""
        if self._connecting is None and time.monotonic() >= self._next_try:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        self._next_try = time.monotonic() + _PAUSE_S
        try:
            loop = asyncio.get_running_loop()
            _, self._line = await loop.create_unix_connection(lambda: _Line(self._name, self._lost), str(self._path))
        except OSError:
            return
        finally:
            self._connecting = None

    def _lost(self) -> None:
        self._line = None


class _Line(FrameProtocol):
    """One connection from its beginning to its end."""

    def __init__(self, name: str, lost: Callable[[], None]) -> None:
        super().__init__()
        self._name = name
        self._lost = lost
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    def ask(self, number: int, payload: bytes) -> "asyncio.Future[bytes]":
        """The reply of that number."""
        reply = self._asked[number] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(lambda _: self._asked.pop(number, None))
        self.send(number, payload)
        return reply

    def received(self, number: int, payload: bytes) -> None:
        reply = self._asked.get(number)
        if reply is not None and not reply.done():
            reply.set_result(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        for reply in list(self._asked.values()):
            if not reply.done():
                reply.set_exception(SideError(f"the {self._name} went away before it answered"))


def _checked(payload: bytes) -> bytes:
    assert len(payload) <= MAX_FRAME_BYTES, "messages to side processes are bounded"
    return payload
