"""uvicorn on a listener of the service's own: connections are admitted and bounded by `entry`."""

import asyncio
import socket
from collections.abc import Callable
from itertools import islice

import structlog
import uvicorn
from starlette.types import ASGIApp

from service.http.entry import MAX_WAITING, Entry, accepted, listen, refuse_new
from service.http.protocol import Shortcut
from service.settings import Settings
from service.telemetry.metrics import Metrics

LINGER_S = 1.0
ONCE_A_SECOND = 10
_KEEP_ALIVE_S = 75
# Seconds after the listener closed in which unanswered clients are waited for.
_LAST_REPLIES_S = 3
_ACCEPT_AGAIN_S = 0.5
_AT_ONCE = 64


class HttpServer(uvicorn.Server):
    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        listener: socket.socket,
        metrics: Metrics,
        shortcut: Shortcut | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`max_waiting`: requests that may wait on a connection."""
        self._entry = Entry(settings, metrics, max_waiting)
        super().__init__(_config(app, self._entry.protocol(shortcut)))
        self._listener = listener
        self._is_resting = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.server")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._loop = asyncio.get_running_loop()
        self.address = listen(self._listener)
        self._watch_listener()
        self._entry.open()

    async def on_tick(self, counter: int) -> bool:
        if counter % ONCE_A_SECOND == 0:
            self._entry.look_after(self.server_state.connections)
        return await super().on_tick(counter)

    async def close_listener(self) -> None:
        """Accept the connections that the kernel has queued, then close the listener."""
        refuse_new(self._listener)
        self._take_in(None)
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._arriving:  # silent TLS clients are not waited for
            await asyncio.wait(self._arriving, timeout=LINGER_S)
        self._entry.close()

    def _watch_listener(self) -> None:
        self._is_resting = False
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._take_in)

    def _take_in(self, most: int | None = _AT_ONCE) -> None:
        """Accept up to this many waiting connections, or all; connections are examined before more are accepted."""
        try:
            for connection in islice(accepted(self._listener), most):
                task = self._loop.create_task(self._admit(connection))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)
        except OSError as error:
            # Too many open files, or no memory: connections stay in the backlog for a while.
            self._log.error("cannot_accept", reason=error.strerror, again_in=_ACCEPT_AGAIN_S)
            self._loop.remove_reader(self._listener)
            if not self._is_resting:
                self._is_resting = True
                self._loop.call_later(_ACCEPT_AGAIN_S, self._watch_listener)

    async def _admit(self, connection: socket.socket) -> None:
        if not await self._entry.admit(connection, self._protocol, self.server_state.connections):
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        factory = self.config.http_protocol_class
        return factory(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _config(app: ASGIApp, protocol: Callable[..., asyncio.Protocol]) -> uvicorn.Config:
    """Return uvicorn's configuration without unused parts."""
    return uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # it is called, no more
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_REPLIES_S,
    )
