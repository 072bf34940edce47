"""Packed states that were read before, in bounded memory; those least asked for make room.

Does not know whether they still are what they were: it holds what it is given until it is told to drop it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# What Python takes for an entry beside the bytes of key and state, about.
_OVERHEAD = 250
_NONE = (None, -1)


class Near:
    """By key, what was read and in which epoch; that there is no state is held like any other."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[bytes, tuple[bytes | None, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def look_up(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], NDArray[np.int64]]:
        """What is held of keys [n], and the epochs [n] in which it was read: −1 where nothing is held."""
        held = self._held
        found = [held.get(key, _NONE) for key in keys]
        for key, (_, epoch) in zip(keys, found, strict=True):
            if epoch >= 0:
                held.move_to_end(key)
        return [value for value, _ in found], np.fromiter((epoch for _, epoch in found), np.int64, len(keys))

    def put(self, values: Mapping[bytes, bytes | None], epoch: int) -> None:
        """Holds what was read."""
        for key, value in values.items():
            self._drop(key)
            self._held[key] = value, epoch
            self._bytes += _size(key, value)
        while self._bytes > self._max_bytes:
            key, (value, _) = self._held.popitem(last=False)
            self._bytes -= _size(key, value)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Drops keys."""
        for key in keys:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        if (held := self._held.pop(key, None)) is not None:
            self._bytes -= _size(key, held[0])


def _size(key: bytes, value: bytes | None) -> int:
    return _OVERHEAD + len(key) + (len(value) if value else 0)
