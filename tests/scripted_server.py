"""A little HTTP server in a thread that does as scripted: what a service may do to its clients."""

import asyncio
import enum
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    """Answers a request, so many seconds after it came, and with so many before each byte where they drip."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[str, ...] = ()
    wait_s: float = 0.0
    drip_s: float = 0.0
    length: int | None = None
    """What the head says of the body's length, where that is not so."""
    ends: bool = False

    def head(self) -> bytes:
        """The lines before the body."""
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status} X", f"Content-Length: {length}", *self.headers]
        return "\r\n".join([*lines, "", ""]).encode()


class End(enum.Enum):
    """What else may come of a request: the last stops the server as well."""

    CLOSE = "close"
    RESET = "reset"
    DIE = "die"


HANG = Reply(wait_s=3_600.0)
Act = Reply | End | bytes
"""Bytes are sent as they are."""


@dataclass
class ScriptedServer:
    """Where it listens, the heads and bodies of the requests that came, and how many connections there were."""

    acts: tuple[Act, ...]
    url: str = ""
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.writers)

    async def run(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Serves until then."""
        self._listener = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        ready.set()
        await over.wait()
        self._die()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        # Those that were accepted last begin to talk only now.
        await asyncio.sleep(0.05)

    def _die(self) -> None:
        self._listener.close()
        for writer in self.writers:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while await self._receive(reader):
                act = self.acts[min(len(self.heads), len(self.acts)) - 1]
                if isinstance(act, bytes):
                    writer.write(act)
                elif isinstance(act, Reply):
                    await _reply(writer, act)
                    if act.ends or act.length is not None:
                        return
                else:
                    return self._end(writer, act)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        self.bodies.append(await reader.readexactly(int(lengths[0]) if lengths else 0))
        self.heads.append(head)
        return head

    def _end(self, writer: asyncio.StreamWriter, end: End) -> None:
        if end is End.DIE:
            self._die()
        if end is End.RESET:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _reply(writer: asyncio.StreamWriter, reply: Reply) -> None:
    await asyncio.sleep(reply.wait_s)
    if reply.drip_s:
        parts = [bytes([byte]) for byte in reply.head() + reply.body]
    else:
        # In two parts, as large replies come.
        half = len(reply.body) // 2
        parts = [reply.head() + reply.body[:half], reply.body[half:]]
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(reply.drip_s)


@contextmanager
def scripted_server(*acts: Act) -> Iterator[ScriptedServer]:
    """Runs one on a free port, which does one thing a request after another, and the last of them for ever."""
    server, ready, over = ScriptedServer(acts), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.run(ready, over)))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
