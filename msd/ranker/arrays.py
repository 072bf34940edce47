"""Arrays by event: in memory, or in mapped files, whose pages take memory only while in use."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

CHUNK = 2**18
"""Rows that are computed at once, whatever there are."""


@dataclass(frozen=True)
class Arrays:
    """Makes arrays of zeros: in memory, or in files of a `folder`. Those without a name leave no file behind."""

    folder: Path | None = None

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float64, name: str = "") -> NDArray[Any]:
        """Return a new array; its file is `NAME.npy`."""
        if self.folder is None or 0 in shape:
            return np.zeros(shape, dtype)
        if name:
            return np.asarray(np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", dtype, shape))
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return np.asarray(np.memmap(file, dtype, "w+", shape=shape))

    def filled(
        self, shape: tuple[int, ...], dtype: DTypeLike, of: Callable[[slice], NDArray[Any]], name: str = ""
    ) -> NDArray[Any]:
        """Return a new array of what `of` gives for parts of the rows."""
        whole = self.zeros(shape, dtype, name)
        for part in chunks(len(whole)):
            whole[part] = of(part)
        return whole


IN_MEMORY = Arrays()


def chunks(rows: int, most: int | None = None) -> Iterator[slice]:
    """Yield the places of rows, CHUNK at a time, or `most`."""
    step = most or CHUNK
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
