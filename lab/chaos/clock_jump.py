"""A service's clock that jumps. A process's clock cannot be set from outside, so the service runs with a module that
adds the number in a file to `time.time`.
"""

from pathlib import Path

_BYTES = 20
_SHIFTED = '''"""Adds to the clock what a file says, which may change at any time. Many threads ask at once."""

import os
import time

_FILE = os.open({path!r}, os.O_RDONLY)
_time = time.time


def _shifted() -> float:
    return _time() + float(os.pread(_FILE, {size}, 0))


time.time = _shifted
'''


class ShiftedClock:
    """The clock of a service that runs with the module in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "seconds"
        self._path.touch()
        self.jump(0.0)
        (folder / "sitecustomize.py").write_text(_SHIFTED.format(path=str(self._path), size=_BYTES))

    def jump(self, seconds: float) -> None:
        """Shift it. The file is overwritten in place, because readers have it open."""
        with self._path.open("r+b") as file:
            file.write(f"{seconds:<{_BYTES}}".encode())
