"""The main port: its start and shutdown, which lose no accepted request; and the admin port."""

import gc
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import native
from msd.contract.errors import MsdError
from service.deployment.rollout import BundleFollower, Rollout
from service.http.server import LINGER_S, ONCE_A_SECOND, HttpServer
from service.server.app import admin_app, create_app
from service.server.components import Components
from service.server.watchdog import SIGNALS, Watchdog, grace_of
from service.settings import Settings
from service.telemetry.metrics import Metrics

_ADMIN_CONNECTIONS = 64


class AdminServer(HttpServer):
    """The admin port: a few connections in a separate thread and loop, which answer even if clients fill the main port
    or the service's loop hangs.

    No client certificate is required: probes have none.
    """

    def __init__(self, parts: Components, listener: socket.socket) -> None:
        own = parts.settings.model_copy(update={"tls_client_ca": None, "max_connections": _ADMIN_CONNECTIONS})
        super().__init__(admin_app(parts), own, listener, parts.metrics, parts.engine.native, None, max_waiting=1)
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, as the last step of shutdown."""
        self.should_exit = True
        self._thread.join(LINGER_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
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


class ScoringServer(HttpServer):
    """The main port.

    The first signal drains it: readiness fails, and every reply closes its connection. After the drain time the
    listener closes, accepted requests are answered, the request log is written, and the process ends. A second SIGINT
    or SIGTERM ends it at once.
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
        self._parts = parts = Components(settings, metrics, plan)
        super().__init__(create_app(parts), settings, listener, metrics, parts.engine.native, parts.score)
        self._watchdog = watchdog
        self._admin = None if admin is None else AdminServer(parts, admin)
        prepare = None if parts.catalogue is None else parts.catalogue.prepare
        self._rollout = Rollout(follower, plan, parts.serving, settings, metrics, prepare)
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
    def is_busy(self) -> bool:
        # A reply may arrive before its job has ended, and the request log learns of it then.
        return super().is_busy or not self._parts.engine.is_idle

    @property
    def is_run_left(self) -> bool:
        """Return whether a scoring thread still runs a model that is not waited for any more."""
        return self._parts.liveness.is_running

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._watchdog.listen()
        await super().startup()
        self._parts.score.open(self.front)
        self._metrics.connections.set_function(lambda: self.front.connections)
        self._rollout.start()
        self._parts.liveness.beat()
        self._watchdog.follow(self._parts.liveness)
        self._log.info("native_core", instructions=native.INSTRUCTIONS)
        if self._admin is not None:
            self._admin.start()
        self._log.info("listening", host=self.address[0], port=self.address[1], threads=self._parts.settings.workers)

    async def on_tick(self, counter: int) -> bool:
        await super().on_tick(counter)
        self._parts.liveness.beat()
        self._parts.score.look()
        if counter % ONCE_A_SECOND == 0:
            self._parts.engine.merge_counts()
        if self._ends_at is not None:
            self._drain()
            return time.monotonic() >= self._ends_at
        if self._parts.readiness.is_ready and not self._is_settled:
            # Long-lived objects leave the garbage collector: scanning them would stop all threads for tens of ms.
            self._is_settled = True
            gc.collect()
            gc.freeze()
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests, then stop as uvicorn does."""
        self._drain()
        self._rollout.stop()
        await self.close_listener()
        # A connected client may have a request on the way: the first, or the next on a kept connection.
        await self._await_replies(LINGER_S)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, do not raise the signals again at the end: draining is success."""
        before = {number: signal.signal(number, self.handle_exit) for number in handled_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Record the signal only: a handler may run between any two steps of the loop."""
        if self._ends_at is None:
            now, settings = time.monotonic(), self._parts.settings
            self._ends_at, self._parts.ends_at = now + settings.drain_seconds, now + grace_of(settings)

    def _drain(self) -> None:
        if not self._parts.readiness.draining:
            self._parts.readiness.drain()
            self._log.info("draining", seconds=self._parts.settings.drain_seconds)
            self.drain()


def handled_signals() -> list[signal.Signals]:
    """Return the handled signals: under nohup not SIGHUP."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
