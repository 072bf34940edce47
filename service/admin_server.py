"""The admin port: a thread and an event loop of its own."""

import socket
import threading
from contextlib import AbstractContextManager, nullcontext

from starlette.types import ASGIApp

from service.http.server import LINGER_S, HttpServer
from service.settings import Settings
from service.telemetry.metrics import Metrics

_CONNECTIONS = 64


class AdminServer(HttpServer):
    """The admin port: a few connections in a separate thread and loop, which answer even if clients fill the main port
    or the service's loop hangs.

    No client certificate is required: probes have none.
    """

    def __init__(self, app: ASGIApp, settings: Settings, listener: socket.socket, metrics: Metrics) -> None:
        own = settings.model_copy(update={"tls_client_ca": None, "max_connections": _CONNECTIONS})
        super().__init__(app, own, listener, metrics)
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
