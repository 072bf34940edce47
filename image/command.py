"""Other programs, run to their end: their output, or an error with its last lines."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msd.contract.errors import MsdError

_TOLD_LINES = 15


class ImageError(MsdError):
    """An image cannot be built, or does not work as required."""


def program(name: str) -> str:
    """Return the path of a program of the extra `image`, beside this Python or on PATH. Raises ImageError if it is
    missing."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ImageError(f"{name} is not installed: pip install -e '.[image]'")
    return found


def output_of(command: Sequence[str]) -> str:
    """Return a command's standard output. Raises ImageError if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ImageError(f"`{' '.join(command[:3])} …` failed:\n{_last_lines(ended.stderr or ended.stdout)}")
    return ended.stdout


def logged(command: Sequence[str], log: Path) -> None:
    """Run a long command with all its output in a file. Raises ImageError if it fails."""
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise ImageError(f"`{' '.join(command[:3])} …` failed; {log} has all of it, which ends so:\n{tail_of(log)}")


def tail_of(log: Path) -> str:
    """Return the last lines of a file."""
    return _last_lines(log.read_text("utf-8", "replace"))


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_TOLD_LINES:])
