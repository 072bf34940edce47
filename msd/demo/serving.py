"""Service of the demo: `msd serve` as a subprocess, ready before use and stopped by SIGTERM."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from msd.demo.steps import DemoError
from msd.free_port import free_port

_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 30.0


@contextmanager
def serve(bundle: Path, log: Path, *options: str, **settings: str) -> Iterator[str]:
    """Serve `bundle` on a free port; yield the address once ready. Output goes to `log`. `settings`: MSD_ variables."""
    with run_service(bundle, log, free_port(), *options, **settings) as (url, _):
        yield url


@contextmanager
def run_service(
    bundle: Path, log: Path, port: int, *options: str, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve `bundle`; yield the address and the process once ready, and stop it at the end."""
    command = [sys.executable, "-m", "msd", "serve", str(bundle), "--port", str(port), *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # Only the demo sends requests, so no drain time is needed.
        environment = {**os.environ, "MSD_DRAIN_SECONDS": "0", **settings}
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
    reason = "it did not answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the service ended with exit code {process.returncode}; it said: {_tail(log)}")
        try:
            reply = httpx.get(f"{url}/health/ready", timeout=2, trust_env=False)
            if reply.status_code == httpx.codes.OK:
                return
            reason = reply.text
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise DemoError(f"the service was not ready within {_READY_WITHIN_S:.0f} s: {reason}; it said: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1_000:].strip() or "nothing"
