"""The HTTP server process: uvicorn, which on SIGTERM drains before it stops, so that no accepted request is lost."""

import asyncio
import ctypes
import signal
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from types import FrameType

import structlog
import uvicorn

from msd.contract.errors import MsdError
from service.app import create_app
from service.logs import configure_logs
from service.protocol import bounded_protocol
from service.settings import Settings

_KEEP_ALIVE_S = 75
_BACKLOG = 2_048
_TICK_S = 0.05
_LINGER_S = 1.0
_SO_ATTACH_FILTER = 26


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises MsdError when the service cannot start."""
    configure_logs(settings.log_level)
    app = create_app(settings)
    listener = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(settings.max_header_bytes, settings.head_timeout_ms / 1000),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    host, port = listener.getsockname()[:2]
    structlog.get_logger("msd.server").info("listening", host=host, port=port)
    DrainingServer(config, app.state.readiness.drain, settings.drain_seconds).run([listener])


class DrainingServer(uvicorn.Server):
    """First signal: says that it wants no more, answers whoever still comes for `drain_seconds`, then closes the door,
    answers all who are in, and stops. A second SIGINT stops at once."""

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None], drain_seconds: float) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._drain_seconds = drain_seconds
        self._log = structlog.get_logger("msd.server")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remembers the signal; unlike uvicorn's own it does not raise it again at the end: draining is success."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains, then stops as uvicorn does."""
        self._on_drain()
        self._log.info("draining", seconds=self._drain_seconds)
        await self._answer_for(self._drain_seconds, lambda: True)
        await self._close_doors(sockets or [])
        # Whoever is still connected may have a request on the way: the first, or the next on a kept connection.
        await self._answer_for(_LINGER_S, lambda: bool(self.server_state.connections))
        await super().shutdown(sockets)

    async def _answer_for(self, seconds: float, is_needed: Callable[[], bool]) -> None:
        """Lets the loop answer, each reply telling its client to reconnect elsewhere."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and is_needed() and not self.force_exit:
            date = formatdate(usegmt=True).encode()
            self.server_state.default_headers = [(b"date", date), (b"connection", b"close")]
            await asyncio.sleep(_TICK_S)

    async def _close_doors(self, sockets: list[socket.socket]) -> None:
        """Stops listening, after taking in every connection that the kernel has accepted in our name."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            _refuse_new(listener)
            for connection in _accepted(listener):
                await loop.connect_accepted_socket(self._protocol, connection)
        for server in self.servers:
            server.close()

    def _protocol(self) -> asyncio.Protocol:
        factory = self.config.http_protocol_class
        return factory(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise MsdError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def _refuse_new(listener: socket.socket) -> None:
    """Has the kernel drop new connections, between the last one taken in and the closing of the door.

    A one-line packet filter, `return 0`; where there are none, the gap stays open for some microseconds.
    """
    instruction = _Instruction(0x06, 0, 0, 0)
    program = _Program(1, ctypes.pointer(instruction))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:
        return


def _accepted(listener: socket.socket) -> list[socket.socket]:
    connections: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return connections
        connection.setblocking(False)
        connections.append(connection)
