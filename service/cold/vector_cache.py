"""Vectors of texts by their keys, so many at most. A key stands for encoder and text, so that nothing held is old."""

from collections import OrderedDict

from msd.contract.encoded import Vector


class VectorCache:
    """Who was least asked for makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[bytes, Vector] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes) -> Vector | None:
        """The vector of a key, which counts as asked for."""
        vector = self._held.get(key)
        if vector is not None:
            self._held.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vector) -> None:
        """Holds a vector; as a copy, so that none keeps the memory of all that it was made with."""
        self._held[key] = vector.copy()
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
