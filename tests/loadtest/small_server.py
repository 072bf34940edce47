"""A little HTTP server in a thread whose replies follow a script: what a service may do to its clients."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

REPLY, CLOSE, HANG, NOISE, DIE = "reply", "close", "hang", "noise", "die"


@dataclass
class Script:
    """What is done with the n-th request: a status to reply with and the seconds before, or what else; by default 200
    at once. `bodies` keeps what came, `reply` is the body of its reply."""

    answer: Callable[[int], tuple[str, int, float]] = lambda number: (REPLY, 200, 0.0)
    reply: Callable[[int], bytes] = lambda number: b"{}"
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    server: asyncio.Server | None = None
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def die(self) -> None:
        """All connections end, and nobody listens any more."""
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.close()


@contextmanager
def small_server(script: Script) -> Iterator[str]:
    """Its address."""
    loop = asyncio.new_event_loop()
    started: asyncio.Future[int] = loop.create_future()
    over = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda reader, writer: _talk(script, reader, writer), "127.0.0.1", 0)
        script.server = server
        started.set_result(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        script.die()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        # Those that were accepted last begin to talk only now.
        await asyncio.sleep(0.05)

    ready = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{started.result()}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _talk(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    script.connections += 1
    script.writers.append(writer)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split()[0])
            script.bodies.append(await reader.readexactly(length))
            number = len(script.bodies) - 1
            what, status, seconds = script.answer(number)
            if what == HANG:
                await asyncio.sleep(3_600)
            await asyncio.sleep(seconds)
            if what == DIE:
                script.die()
            if what in (CLOSE, DIE):
                return
            if what == NOISE:
                writer.write(b"this is not HTTP\r\n\r\n")
                continue
            body = script.reply(number)
            # In two parts, as large replies come.
            half = len(body) // 2
            writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body[:half])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(body[half:])
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()
