"""The one process of the service: an event loop that takes connections in, reads HTTP and never runs a model; and its
beginning and end, at which no accepted request is lost.
"""

import asyncio
import faulthandler
import gc
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from email.utils import formatdate
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from msd.contract.errors import MsdError
from service.app import create_app
from service.cores import scoring_threads, usable_cores
from service.deployment.follower import Follower
from service.deployment.held import private_folder
from service.deployment.readiness import Readiness
from service.deployment.source import Source
from service.deployment.swaps import Swaps
from service.http.entry import Entry
from service.http.keys import check_keys
from service.http.listener import accepted, bind, listen, refuse_new
from service.http.protocol import Shortcut, bounded_protocol
from service.http.tls import check_tls
from service.models.native_path import CoreStatus
from service.settings import Settings
from service.telemetry.logs import configure_logs, keep_standard_streams
from service.telemetry.metrics import Metrics
from service.trust import Trust

_KEEP_ALIVE_S = 75
_TICK_S = 0.05
_LINGER_S = 1.0
# Once the door is closed: whoever has not been answered by then is not waited for, and whatever hangs is ended.
_LAST_REPLIES_S, _LAST_S = 3, 5.0
_ACCEPT_AGAIN_S = 0.5
_ONCE_A_SECOND = 10
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_service(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises MsdError when the service cannot start."""
    keep_standard_streams()
    metrics = Metrics()
    metrics.log_lines.read = configure_logs(settings.log_level).read
    for number in _heeded():
        signal.signal(number, _leave)
    check_keys(settings)
    check_tls(settings)
    settings = _with_threads(settings)
    with private_folder() as folder, bind(settings.host, settings.port) as listener:
        follower = Follower(Source(settings), folder, settings.store == "file", Trust(settings.trusted_keys))
        Server(settings, listener, follower, folder, metrics).run()


def _with_threads(settings: Settings) -> Settings:
    cores = usable_cores()
    count = scoring_threads(settings, cores)
    if count * settings.threads > max(1.0, cores):
        structlog.get_logger("msd.server").warning(
            "more_threads_than_cores", workers=count, threads=settings.threads, cores=round(cores, 2)
        )
    return settings.model_copy(update={"workers": count})


def _heeded() -> list[signal.Signals]:
    """Under nohup the end of the terminal is nothing to the service."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _leave(number: int, frame: FrameType | None) -> None:
    """Before it listens there is nobody to answer."""
    sys.exit(0)


def server_config(app: ASGIApp, settings: Settings, metrics: Metrics, shortcut: Shortcut | None) -> uvicorn.Config:
    """uvicorn without what is not used."""
    return uvicorn.Config(
        app,
        http=bounded_protocol(
            settings.max_header_bytes,
            settings.head_timeout_ms / 1000,
            settings.reply_timeout_ms / 1000,
            metrics,
            shortcut,
        ),
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


class Server(uvicorn.Server):
    """uvicorn on a listener of the service's own. The first signal drains: the service says that it is not ready, and
    every reply tells its client to connect anew; when the time for that is over the door closes, all who are in are
    answered, and the process ends. A second SIGINT ends it at once."""

    def __init__(
        self, settings: Settings, listener: socket.socket, follower: Follower, folder: Path | None, metrics: Metrics
    ) -> None:
        """Loads what the follower says is wanted. `folder`: to be removed at the end. Raises MsdError."""
        plan = follower.first()
        app = create_app(settings, metrics, plan)
        super().__init__(server_config(app, settings, metrics, app.state.fast_route))
        self._drain_s = settings.drain_seconds
        self._core: CoreStatus = app.state.serving.current.champion.core
        self._threads = settings.workers
        self._metrics = metrics
        self._readiness: Readiness = app.state.readiness
        self._listener = listener
        self._entry = Entry(settings, metrics)
        self._follower = follower
        self._swaps = Swaps(plan, app.state.serving, app.state.loader, metrics)
        self._folder = folder
        self._ends_at: float | None = None
        self._is_settled = self._is_resting = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.server")

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """To the end. Raises MsdError when the app or its listener cannot start."""
        try:
            super().run(sockets=[])
        except SystemExit as error:
            if self.started or not error.code:
                raise
            raise MsdError("the service could not start; the log has the reason") from error

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the app, and opens the door."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        host, port = listen(self._listener)
        self._watch_door()
        self._entry.open()
        self._swaps.begin()
        self._follower.start(self._wake)
        self._log.info("native_core", **asdict(self._core))
        self._log.info("listening", host=host, port=port, threads=self._threads)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        await super().on_tick(counter)
        if counter % _ONCE_A_SECOND == 0:
            self._metrics.connections.set(len(self.server_state.connections))
            self._entry.judge_readers(self.server_state.connections)
        if self._ends_at is not None:
            self._drain()
            return time.monotonic() >= self._ends_at
        if self._readiness.is_ready and not self._is_settled:
            self._settle()
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers whoever the kernel has accepted or is connected, then stops as uvicorn does."""
        self._drain()
        self._follower.stop()
        await self._swaps.end()
        refuse_new(self._listener)
        self._take_in()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.gather(*self._arriving)
        self._entry.close()
        # Whoever is still connected may have a request on the way: the first, or the next on a kept connection.
        await self._answer_while(lambda: bool(self.server_state.connections), _LINGER_S)
        await super().shutdown(sockets)

    # Connections

    def _watch_door(self) -> None:
        self._is_resting = False
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._take_in)

    def _take_in(self) -> None:
        try:
            for connection in accepted(self._listener):
                task = self._loop.create_task(self._admit(connection))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)
        except OSError as error:
            # Too many open files, or no memory: they wait at the door for a while.
            self._log.error("cannot_accept", reason=error.strerror, again_in=_ACCEPT_AGAIN_S)
            self._loop.remove_reader(self._listener)
            if not self._is_resting:
                self._is_resting = True
                self._loop.call_later(_ACCEPT_AGAIN_S, self._watch_door)

    async def _admit(self, connection: socket.socket) -> None:
        if not await self._entry.admit(connection, self._protocol, self.server_state.connections):
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        factory = self.config.http_protocol_class
        return factory(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    # Bundles

    def _wake(self) -> None:
        """From the follower's thread."""
        self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        if (found := self._follower.take()) is not None:
            self._swaps.hear_of(found)

    def _settle(self) -> None:
        """What lives by now stays: to go through it all again would stop a later collection for tens of ms."""
        self._is_settled = True
        gc.collect()
        gc.freeze()

    # The end

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own it does not raise them again at the end: draining is success."""
        before = {number: signal.signal(number, self.handle_exit) for number in _heeded()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes when it is to end; whatever is at hand may not be changed between any two of its steps."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + self._drain_s
            # Without Python's lock: whatever hangs is shown where it does, and the process ends with 1.
            faulthandler.dump_traceback_later(self._drain_s + _LAST_S, exit=True, file=2)
        elif sig == signal.SIGINT:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(0)

    def _drain(self) -> None:
        if not self._readiness.draining:
            self._readiness.drain()
            self._log.info("draining", seconds=self._drain_s)
        self._send_away()

    def _send_away(self) -> None:
        """Lets each reply tell its client to connect anew."""
        self.server_state.default_headers = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]

    async def _answer_while(self, is_needed: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and is_needed():
            self._send_away()
            await asyncio.sleep(_TICK_S)
