"""Another program, run to its end: what it says, or an error with the end of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msd.contract.errors import MsdError

_TOLD_LINES = 15


class ImageError(MsdError):
    """An image that cannot be built, or does not do what it is made for."""


def program(name: str) -> str:
    """The path of a program of the extra `image`, installed beside this Python. Raises ImageError without it."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ImageError(f"{name} is not installed: pip install -e '.[image]'")
    return found


def output_of(command: Sequence[str]) -> str:
    """What a command writes to standard output. Raises ImageError when it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ImageError(f"`{' '.join(command[:3])} …` failed:\n{_last_lines(ended.stderr or ended.stdout)}")
    return ended.stdout


def logged(command: Sequence[str], log: Path) -> None:
    """Runs a command that takes long, with all that it says in a file. Raises ImageError when it fails."""
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise ImageError(f"`{' '.join(command[:3])} …` failed; {log} has all of it, which ends so:\n{tail_of(log)}")


def tail_of(log: Path) -> str:
    """The last lines of a file."""
    return _last_lines(log.read_text("utf-8", "replace"))


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_TOLD_LINES:])
