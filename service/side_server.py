"""What every side process is inside: it listens on its socket until the supervisor lets go of it, or goes itself.

Does not know what messages say.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from msd.contract.errors import MsdError
from service.frames import FrameProtocol
from service.logs import configure_logs
from service.metrics import Metrics
from service.settings import Settings

Handler = Callable[[bytes], Awaitable[bytes | None]]
"""Makes the reply to one message; None, or nothing that anybody hears of, to one that wants none."""
Opening = Callable[[Settings, Metrics], AbstractAsyncContextManager[Handler]]
"""Opens what the process is there for; at the block's end all that it was told has been seen to."""
_REFUSED = 2
_BACKLOG = 128


def run_side_process(name: str, arguments: Sequence[str], opening: Opening) -> None:
    """The `main` of a side process: LIFELINE NUMBERS SLOTS ROW SOCKET, as `side_process` gives them."""
    lifeline, numbers, slots, row = map(int, arguments[:4])
    settings = Settings.from_environ(os.environ)
    configure_logs(settings.log_level, process=name)
    metrics = Metrics()
    try:
        asyncio.run(_serve(socket.socket(fileno=lifeline), Path(arguments[4]), opening(settings, metrics)))
    except MsdError as error:
        structlog.get_logger("msd.side").error("refused", reason=str(error))
        sys.exit(_REFUSED)


async def _serve(lifeline: socket.socket, path: Path, opened: AbstractAsyncContextManager[Handler]) -> None:
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    os.set_inheritable(lifeline.fileno(), False)
    # Nothing is ever said over the lifeline: what can be read is its end.
    loop.add_reader(lifeline, is_over.set)
    loop.add_signal_handler(signal.SIGTERM, is_over.set)
    async with opened as handler:
        path.unlink(missing_ok=True)
        lines: set[_Line] = set()
        server = await loop.create_unix_server(lambda: _Line(handler, lines), str(path), backlog=_BACKLOG)
        await is_over.wait()
        loop.remove_reader(lifeline)
        server.close()
        tasks = [task for line in lines for task in line.tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in list(lines):
            line.close()


class _Line(FrameProtocol):
    """One worker's connection."""

    def __init__(self, handler: Handler, lines: "set[_Line]") -> None:
        super().__init__()
        self._handler = handler
        self._lines = lines
        self.tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.side")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lines.discard(self)

    def received(self, number: int, payload: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(number, payload))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, number: int, payload: bytes) -> None:
        try:
            reply = await self._handler(payload)
        except Exception as error:
            # The client hears it as the end of the connection, and connects anew.
            self._log.error("message_failed", exc_info=error)
            self.end()
            return
        if number and reply is not None:
            self.send(number, reply)

    def close(self) -> None:
        """Ends the connection when what was sent has left."""
        self._transport.close()
