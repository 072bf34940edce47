"""LRU cache, bounded by the total size of its entries."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Values by key, for any thread. `size_of`: the size of an entry; by default each counts as one."""

    def __init__(self, most: int, size_of: Callable[[K, V], int] = lambda key, value: 1) -> None:
        self._most, self._size_of = most, size_of
        self._lock = threading.Lock()
        self._held: OrderedDict[K, V] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, keys: Sequence[K]) -> list[V | None]:
        held = self._held
        with self._lock:
            for key in keys:
                if key in held:
                    held.move_to_end(key)
            return [held.get(key) for key in keys]

    def put(self, values: Mapping[K, V]) -> None:
        """Store values; evict the least recently used ones if they do not all fit."""
        with self._lock:
            for key, value in values.items():
                self._drop(key)
                self._held[key] = value
                self._size += self._size_of(key, value)
            while self._size > self._most:
                self._drop(next(iter(self._held)))

    def drop(self, keys: Iterable[K]) -> None:
        with self._lock:
            for key in keys:
                self._drop(key)

    def _drop(self, key: K) -> None:
        if key in self._held:
            self._size -= self._size_of(key, self._held.pop(key))
