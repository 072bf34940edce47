"""A TCP proxy that delays, truncates, resets or blocks traffic. Runs an event loop in a separate thread. Knows no
protocol.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

Mode = Literal["pass", "delay", "truncate", "reset", "hold"]
_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards a port to another; `mode` may be changed at any time.

    `delay`: the server's bytes come `delay_s` later. `truncate`: only half of the next reply comes, then the end.
    `reset`: the server's next bytes reset the connection. `hold`: nothing comes any more.
    """

    def __init__(self, port: int, delay_s: float = 0.3) -> None:
        self.mode: Mode = "pass"
        self._target, self._delay_s = port, delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.create_task(self._pass_on(reader, their_writer)),
                asyncio.create_task(self._spoil(their_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                their_writer.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()

    async def _spoil(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward from the server to its client."""
        while data := await reader.read(_CHUNK):
            mode = self.mode
            if mode == "reset":
                own = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            if mode == "delay":
                await asyncio.sleep(self._delay_s)
            while self.mode == "hold":
                await asyncio.sleep(0.05)
            writer.write(data[: len(data) // 2] if mode == "truncate" else data)
            await writer.drain()
            if mode == "truncate":
                return
