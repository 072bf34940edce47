"""Runs `msd serve` within a block. Imports no more than a service needs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from msd.contract.errors import MsdError
from msd.free_port import free_port

Line = tuple[str | Path, ...]
_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 30.0
_READ_WITHIN_S = 30.0


class DemoError(MsdError):
    """A step failed, or its folder or data cannot be used."""


def command_of(arguments: Line) -> list[str]:
    """Return the command line of `msd ARGUMENTS`."""
    return [sys.executable, "-m", "msd", *map(str, arguments)]


@contextmanager
def serve(
    bundle: Path, log: Path, *options: str, port: int | None = None, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve `bundle`, by default on a free port; yield the address and the process once ready, and stop it at the end.

    Output goes to `log`. `settings`: MSD_ variables.
    """
    port = port or free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # Only the demo sends requests, so no drain time is needed.
        environment = {**os.environ, "MSD_DRAIN_SECONDS": "0", **settings}
        command = command_of(("serve", bundle, "--port", str(port), *options))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    fault = f"was not ready within {_READY_WITHIN_S:.0f} s"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            fault = f"ended with exit code {process.returncode}"
            break
        try:
            _ask(f"{url}/health/ready", timeout=2)
            return
        except (OSError, HTTPException):  # it does not listen yet, or is not ready
            pass
        time.sleep(0.1)
    raise DemoError(f"the service {fault}; its log: {log.read_text(errors='replace')[-1_000:].strip() or 'empty'}")


def score(url: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reply to a scoring request. Raises DemoError."""
    try:
        reply: dict[str, Any] = json.loads(_ask(f"{url}/v1/score", json.dumps(request).encode()))
    except HTTPError as error:
        raise DemoError(f"{url} answered {error.code}: {error.read(300).decode(errors='replace')}") from None
    except URLError as error:
        raise DemoError(f"{url} does not answer: {error.reason}") from None
    return reply


def score_texts(url: str, request: Mapping[str, Any], ids: Collection[str]) -> dict[str, Any]:
    """Return the reply in which these candidates are scored by their texts, which the service encodes shortly after
    their first request. Raises DemoError."""
    deadline = time.monotonic() + _READ_WITHIN_S
    while time.monotonic() < deadline:
        reply = score(url, request)
        degraded = reply.get("degraded", {}).get("candidates", {})
        if all(degraded.get(id_) == "encoded" for id_ in ids):
            return reply
        time.sleep(0.1)
    raise DemoError(f"{url} did not read the texts within {_READ_WITHIN_S:.0f} s; its log may say why")


def _ask(url: str, body: bytes | None = None, timeout: float = 60) -> bytes:
    """Return the body of a reply, however slow the machine. A proxy is for other machines."""
    request = Request(url, body, {"Content-Type": "application/json", "X-Deadline-Ms": "60000"})
    with build_opener(ProxyHandler({})).open(request, timeout=timeout) as reply:
        content: bytes = reply.read()
    return content
