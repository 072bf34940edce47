"""Arrays by event: in memory, or in mapped files, whose pages take memory only while in use."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

CHUNK = 2**18
"""Rows that are computed at once, whatever there are."""


@dataclass(frozen=True)
class Arrays:
    """Makes arrays of zeros: in memory, or in files of a `folder`. Those without a name leave no file behind."""

    folder: Path | None = None

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float64, name: str = "") -> NDArray[Any]:
        """Return a new array; its file is `NAME.npy`. Raises OSError if the disk has no room."""
        if self.folder is None or 0 in shape:
            return np.zeros(shape, dtype)
        if not name:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                mapped = np.memmap(file, dtype, "w+", shape=shape)
                _take_room(file)
                return np.asarray(mapped)
        path = self.folder / f"{name}.npy"
        mapped = np.lib.format.open_memmap(path, "w+", dtype, shape)
        with path.open("r+b") as file:
            _take_room(file)
        return np.asarray(mapped)

    def filled(
        self, shape: tuple[int, ...], dtype: DTypeLike, of: Callable[[slice], NDArray[Any]], name: str = ""
    ) -> NDArray[Any]:
        """Return a new array of what `of` gives for parts of the rows."""
        whole = self.zeros(shape, dtype, name)
        for part in chunks(len(whole)):
            whole[part] = of(part)
        return whole


IN_MEMORY = Arrays()


def _take_room(file: IO[bytes]) -> None:
    """Allocate a mapped file: on a full disk, a write to a hole in it would end the process."""
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def chunks(rows: int, most: int | None = None) -> Iterator[slice]:
    """Yield the places of rows, CHUNK at a time, or `most`."""
    step = most or CHUNK
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
