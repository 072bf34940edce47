"""Messages over a stream between two processes of one service: a length, a number, and bytes that nobody here reads."""

import asyncio
import struct
from typing import cast

MAX_FRAME_BYTES = 2**26
_HEAD = struct.Struct("<II")


class FrameProtocol(asyncio.Protocol):
    """One end of a connection. `received` is called with each message; 0 is the number of one that wants no reply."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._held = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, number: int, payload: bytes) -> None:
        """Sends one message, of at most MAX_FRAME_BYTES; does nothing once the connection has ended."""
        self._transport.writelines((_HEAD.pack(len(payload), number), payload))

    def data_received(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= _HEAD.size:
            size, number = _HEAD.unpack_from(self._held)
            if size > MAX_FRAME_BYTES:
                self._transport.abort()
                return
            end = _HEAD.size + size
            if len(self._held) < end:
                return
            payload = bytes(self._held[_HEAD.size : end])
            del self._held[:end]
            self.received(number, payload)

    def received(self, number: int, payload: bytes) -> None:
        """One message has come whole."""
        raise NotImplementedError

    def waiting_bytes(self) -> int:
        """What was sent and has not left yet."""
        return self._transport.get_write_buffer_size()

    def end(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()
