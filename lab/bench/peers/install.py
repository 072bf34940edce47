"""A virtual environment for each peer, made once, because their requirements conflict."""

import subprocess
import sys
import time
from pathlib import Path

from lab.bench.peers.peers import Peer
from loadtest.processes import ProcessError
from msd.step import fingerprint_of, is_done, mark_done

_FORMAT = 1
_WITHIN_S = 900


def installed(peer: Peer, folder: Path) -> Path:
    """Return the folder of its programs. Raises ProcessError with pip's last lines."""
    start, run = time.perf_counter(), fingerprint_of(_FORMAT, peer.packages, sys.version)
    if not is_done(folder, run):
        # With our own pip: to give each environment one takes longer than all else.
        _run(peer, [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
        pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
        _run(peer, [*pip, "install", "--quiet", *peer.packages])
        mark_done(folder, run, time.perf_counter() - start)
    return folder.absolute() / "bin"


def version_of(peer: Peer, programs: Path) -> str:
    """Return the installed server's version."""
    package = peer.packages[0].partition(">")[0].partition("[")[0]
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return _run(peer, [str(programs / "python"), "-c", code]).strip()


def _run(peer: Peer, command: list[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProcessError(f"{peer.name}: could not be installed: {error}") from error
    if ended.returncode:
        raise ProcessError(f"{peer.name}: could not be installed: {ended.stderr.strip()[-500:]}")
    return ended.stdout
