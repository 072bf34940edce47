"""A port: the native front reads HTTP; uvicorn runs the loop and the app, which answers what the front hands over."""

import asyncio
import socket

import structlog
import uvicorn
from starlette.types import ASGIApp

from native import core
from service import limits
from service.http.bridge import Bridge, Scoring
from service.http.entry import listen
from service.http.tls import TlsEntry, open_tls
from service.machine import return_freed_memory
from service.settings import Settings
from service.telemetry.metrics import Metrics

LINGER_S = 1.0
ONCE_A_SECOND = 10
MAX_WAITING = 100
_TICK_S = 0.1
# Seconds after the listener closed in which unanswered clients are waited for.
_LAST_REPLIES_S = 3.0
# Memory is returned only after a peak above this: less is used again soon.
_WORTH_TRIMMING = 2**23


class HttpServer(uvicorn.Server):
    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        listener: socket.socket,
        metrics: Metrics,
        engine: "core.Engine",
        scoring: Scoring | None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`engine` scores what is for it, with the help of `scoring`; `max_waiting`: requests that may wait on a
        connection. Raises TlsError."""
        super().__init__(_config(app))
        self._metrics, self._listener = metrics, listener
        self.front = front_of(settings, engine, max_waiting)
        self._bridge = Bridge(self.front, app, scoring)
        tls = open_tls(settings, metrics)
        self._tls = None if tls is None else TlsEntry(tls, self.front, settings.max_connections, metrics)
        self._counted_bytes = self._peak = 0
        self._log = structlog.get_logger("msd.server")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await super().startup([])
        self.address = listen(self._listener)
        self._bridge.open()
        if self._tls is None:
            self.front.start(self._listener.detach())
        else:
            self.front.start(-1)
            self._tls.open(self._listener)

    async def on_tick(self, counter: int) -> bool:
        if counter % ONCE_A_SECOND == 0:
            self._look_after()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests for a while, then end."""
        await self.close_listener()
        self.front.close_idle()
        await self._await_replies(_LAST_REPLIES_S)
        self.front.stop()
        self._bridge.close()
        await super().shutdown(sockets)

    async def close_listener(self) -> None:
        """Accept the connections that the kernel has queued, then close the listener."""
        if self._tls is not None:
            await self._tls.close()
        self.front.close_listener()

    def drain(self) -> None:
        """Let each reply tell its client to reconnect."""
        self._bridge.is_draining = True
        self.front.drain()

    async def _await_replies(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end and self.is_busy:
            await asyncio.sleep(_TICK_S / 2)

    @property
    def is_busy(self) -> bool:
        """Return whether clients are connected, or requests are still being scored."""
        return bool(self.front.connections)

    def _look_after(self) -> None:
        """Measure what is held; return free memory after a peak. Connections end a moment after their requests."""
        held: int = self.front.held
        # The change, not the value: there may be another port.
        self._metrics.inflight_bytes.inc(held - self._counted_bytes)
        self._counted_bytes, self._peak = held, max(self._peak, held)
        if self._peak >= _WORTH_TRIMMING and held <= self._peak // 4:
            self._peak //= 2
            asyncio.get_running_loop().run_in_executor(None, return_freed_memory)


def front_of(settings: Settings, engine: "core.Engine", max_waiting: int = MAX_WAITING) -> "core.Front":
    """Return a front over an engine, with the limits of the service. `max_waiting`: requests that may wait on a
    connection."""
    return core.Front(
        engine,
        core.Limits(
            max_connections=settings.max_connections,
            max_waiting=max_waiting,
            max_body=settings.max_body_bytes,
            max_head=limits.MAX_HEAD_BYTES,
            inflight=max(limits.INFLIGHT_BYTES, settings.max_body_bytes),
            max_candidates=settings.max_candidates,
            head_s=limits.HEAD_TIMEOUT_S,
            body_s=limits.BODY_TIMEOUT_S,
            reply_s=limits.REPLY_TIMEOUT_S,
            deadline_s=settings.deadline_ms / 1000,
            max_deadline_s=limits.MAX_DEADLINE_MS / 1000,
            needs_keys=settings.keys_file is not None,
        ),
    )


def _config(app: ASGIApp) -> uvicorn.Config:
    """Return uvicorn's configuration without the parts that the front has."""
    return uvicorn.Config(app, http=asyncio.Protocol, loop="uvloop", ws="none", lifespan="on", log_config=None)
