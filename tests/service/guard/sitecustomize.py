"""Loaded by a service under test before anything else: notes every address that the process connects to or asks a
name server for, refuses all but this machine's own, and at the end notes which modules were loaded."""

import atexit
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

_REPORT = Path(os.environ["GUARD_REPORT"])
_LOCAL = ("127.0.0.1", "::1", "localhost")


def _note(line: str) -> None:
    with _REPORT.open("a") as report:
        report.write(line + "\n")


def _check(host: object, port: object) -> None:
    is_allowed = host in _LOCAL
    _note(f"{'connect' if is_allowed else 'refused'} {host} {port}")
    if not is_allowed:
        raise PermissionError(f"a connection to {host} was tried")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        _check(*(address[:2] if isinstance(address, tuple) else (str(address), "")))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments[0] is not None:
        _check(arguments[0], "name")
    elif event in ("subprocess.Popen", "os.system", "os.exec"):
        # A service starts no processes.
        _note(f"refused process {arguments[0]}")


def _guarded(original: Any) -> Any:  # noqa: ANN401 - uvloop connects below Python, where no audit event is raised
    def call(
        self: object, factory: object, host: object = None, port: object = None, **more: object
    ) -> Coroutine[Any, Any, Any]:
        if host is not None:
            _check(host, port)
        result: Coroutine[Any, Any, Any] = original(self, factory, host, port, **more)
        return result

    return call


uvloop.Loop.create_connection = _guarded(uvloop.Loop.create_connection)  # type: ignore[method-assign]
sys.addaudithook(_audit)
atexit.register(lambda: _note("modules " + " ".join(sorted({name.split(".")[0] for name in sys.modules}))))
