"""The service's process: an event loop that accepts connections, reads HTTP and never runs a model; the admin port's
loop in a separate thread; and start and shutdown, which lose no accepted request.
"""

import asyncio
import gc
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from email.utils import formatdate
from itertools import islice
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from msd.contract.errors import MsdError
from service import limits
from service.app import create_app
from service.deployment.pinned_bundle import private_folder
from service.deployment.readiness import Readiness
from service.deployment.rollout import BundleFollower, Rollout
from service.http.entry import Entry, accepted, bind, listen, refuse_new
from service.http.keys import check_keys
from service.http.protocol import Shortcut
from service.http.tls import check_tls
from service.machine import scoring_threads, usable_cores
from service.scoring.model import CoreStatus
from service.settings import Settings
from service.telemetry.logs import close_logs, configure_logs, keep_standard_streams
from service.telemetry.metrics import Metrics
from service.watchdog import SIGNALS, Liveness, Watchdog

_KEEP_ALIVE_S = 75
_TICK_S = 0.05
_LINGER_S = 1.0
# Seconds after the listener closed in which unanswered clients are waited for.
_LAST_REPLIES_S = 3
_ACCEPT_AGAIN_S = 0.5
_ONCE_A_SECOND = 10
_AT_ONCE = 64
_ADMIN_CONNECTIONS = 64
# Descriptors not used by clients: files of bundles and logs, Redis, the admin port, and connections accepted to be
# refused.
_OTHER_FILES = 256


def run_service(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises MsdError if the service cannot start."""
    keep_standard_streams()
    metrics = Metrics()
    metrics.log_lines.read = configure_logs(settings.log_level).read
    watchdog = Watchdog(settings.drain_seconds, limits.HANG_S)
    watchdog.start()
    for number in _heeded():
        signal.signal(number, _leave_to_the_watchdog)
    check_keys(settings)
    check_tls(settings)
    settings = _with_descriptors(_with_threads(settings))
    with ExitStack() as stack:
        watchdog.folder = folder = stack.enter_context(private_folder())
        listener = stack.enter_context(bind(settings.host, settings.port, settings.reuse_port))
        admin = None if settings.admin_port is None else stack.enter_context(bind(settings.host, settings.admin_port))
        server = Server(settings, listener, admin, BundleFollower(settings, folder), watchdog, metrics)
        server.run()
    if server.is_run_left:
        # Otherwise its memory would be freed under its thread.
        close_logs()
        watchdog.end(1)


def _with_threads(settings: Settings) -> Settings:
    cores = usable_cores()
    count = scoring_threads(settings, cores)
    if count * settings.threads > max(1.0, cores):
        structlog.get_logger("msd.server").warning(
            "more_threads_than_cores", workers=count, threads=settings.threads, cores=round(cores, 2)
        )
    return settings.model_copy(update={"workers": count})


def _with_descriptors(settings: Settings) -> Settings:
    """Return settings whose limit of connections fits the limit of open files, which is raised as far as the system
    allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY or settings.max_connections <= most - _OTHER_FILES:
        return settings
    connections = max(1, most - _OTHER_FILES)
    structlog.get_logger("msd.server").warning(
        "fewer_connections", max_connections=settings.max_connections, allowed=connections, open_files=most
    )
    return settings.model_copy(update={"max_connections": connections})


def _heeded() -> list[signal.Signals]:
    """Return the handled signals: under nohup not SIGHUP."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _leave_to_the_watchdog(number: int, frame: FrameType | None) -> None:
    """Let the watchdog handle signals while the service loads."""


def server_config(app: ASGIApp, protocol: Callable[..., asyncio.Protocol]) -> uvicorn.Config:
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


class _Listening(uvicorn.Server):
    """uvicorn on the service's own listener."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        listener: socket.socket,
        metrics: Metrics,
        shortcut: Shortcut | None = None,
    ) -> None:
        self._entry = Entry(settings, metrics)
        super().__init__(server_config(app, self._entry.protocol(shortcut)))
        self._listener = listener
        self._is_resting = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.server")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app and the listener."""
        await super().startup([])
        self._loop = asyncio.get_running_loop()
        self.address = listen(self._listener)
        self._watch_door()
        self._entry.open()

    async def on_tick(self, counter: int) -> bool:
        """Run ten times a second."""
        if counter % _ONCE_A_SECOND == 0:
            self._entry.look_after(self.server_state.connections)
        return await super().on_tick(counter)

    async def _close_door(self) -> None:
        """Accept the connections that the kernel has queued, then close the listener."""
        refuse_new(self._listener)
        self._take_in(None)
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._arriving:  # silent TLS clients are not waited for
            await asyncio.wait(self._arriving, timeout=_LINGER_S)
        self._entry.close()

    def _watch_door(self) -> None:
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
                self._loop.call_later(_ACCEPT_AGAIN_S, self._watch_door)

    async def _admit(self, connection: socket.socket) -> None:
        if not await self._entry.admit(connection, self._protocol, self.server_state.connections):
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        factory = self.config.http_protocol_class
        return factory(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class AdminServer(_Listening):
    """The admin port: a few connections in a separate thread and loop, which answer even if clients fill the main port
    or the service's loop hangs.

    No client certificate is required: probes have none.
    """

    def __init__(self, app: ASGIApp, settings: Settings, listener: socket.socket, metrics: Metrics) -> None:
        own = settings.model_copy(update={"tls_client_ca": None, "max_connections": _ADMIN_CONNECTIONS})
        super().__init__(app, own, listener, metrics)
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, as the last step of shutdown."""
        self.should_exit = True
        self._thread.join(_LINGER_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and log the address."""
        await super().startup()
        self._log.info("admin_listening", host=self.address[0], port=self.address[1])

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals to the main thread."""
        return nullcontext()

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._log.exception("admin_failed", reason=str(error))


class Server(_Listening):
    """The main port.

    The first signal drains it: readiness fails, and every reply closes its connection. After the drain time the
    listener closes, accepted requests are answered, and the process ends. A second SIGINT ends it at once.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        admin: socket.socket | None,
        follower: BundleFollower,
        watchdog: Watchdog,
        metrics: Metrics,
    ) -> None:
        """Load what the follower wants. `admin`: the admin port's address. Raises MsdError."""
        plan = follower.first()
        app = create_app(settings, metrics, plan)
        super().__init__(app, settings, listener, metrics, app.state.fast_route)
        self._drain_s = settings.drain_seconds
        self._core: CoreStatus = app.state.serving.current.champion.core
        self._threads = settings.workers
        self._metrics = metrics
        self._readiness: Readiness = app.state.readiness
        self._liveness: Liveness = app.state.liveness
        self._watchdog = watchdog
        self._admin = None if admin is None else AdminServer(app.state.admin, settings, admin, metrics)
        self._rollout = Rollout(follower, plan, app.state.serving, settings, metrics)
        self._ends_at: float | None = None
        self._is_settled = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until shutdown. Raises MsdError if the app or its listener cannot start."""
        try:
            super().run()
        except SystemExit as error:
            if self.started or not error.code:
                raise
            raise MsdError("the service could not start; the log has the reason") from error
        finally:
            self._rollout.stop()
        if self._admin is not None:
            self._admin.stop()

    @property
    def is_run_left(self) -> bool:
        """Return whether a scoring thread still runs a model that is not waited for any more."""
        return self._liveness.is_running

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, the listener and the rollout."""
        self._watchdog.listen()
        await super().startup()
        self._rollout.start()
        self._liveness.beat()
        self._watchdog.follow(self._liveness)
        self._log.info("native_core", **asdict(self._core))
        if self._admin is not None:
            self._admin.start()
        self._log.info("listening", host=self.address[0], port=self.address[1], threads=self._threads)

    async def on_tick(self, counter: int) -> bool:
        """Run ten times a second."""
        await super().on_tick(counter)
        self._liveness.beat()
        if counter % _ONCE_A_SECOND == 0:
            self._metrics.connections.set(len(self.server_state.connections))
        if self._ends_at is not None:
            self._drain()
            return time.monotonic() >= self._ends_at
        if self._readiness.is_ready and not self._is_settled:
            self._settle()
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests, then stop as uvicorn does."""
        self._drain()
        self._rollout.stop()
        await self._close_door()
        # A connected client may have a request on the way: the first, or the next on a kept connection.
        await self._answer_while(lambda: bool(self.server_state.connections), _LINGER_S)
        await super().shutdown(sockets)

    def _settle(self) -> None:
        """Move long-lived objects out of the garbage collector: scanning them would stop a later collection for tens of
        ms."""
        self._is_settled = True
        gc.collect()
        gc.freeze()

    # The end

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, do not raise the signals again at the end: draining is success."""
        before = {number: signal.signal(number, self.handle_exit) for number in _heeded()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Record the signal only: a handler may run between any two steps of the loop."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + self._drain_s

    def _drain(self) -> None:
        if not self._readiness.draining:
            self._readiness.drain()
            self._log.info("draining", seconds=self._drain_s)
        self._send_away()

    def _send_away(self) -> None:
        """Make each reply tell its client to reconnect."""
        self.server_state.default_headers = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]

    async def _answer_while(self, is_needed: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and is_needed():
            self._send_away()
            await asyncio.sleep(_TICK_S)
