"""Which place of an arena holds which id, and behind it a tail of bytes. What is here is the native core's `IdMap` in
Python, for where there is no core: both do the same, which one test suite shows.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import native

_NOWHERE = -1


class IdMap(Protocol):
    """Places by id. One thread writes; the native core reads beside it, without Python's lock."""

    @property
    def end(self) -> int:
        """The place after the last one that holds, or held, an id."""
        ...

    def __len__(self) -> int: ...

    def put(self, place: int, one: str, tail: bytes, /) -> None:
        """Puts an id that is not held into a place that holds none. From now on others may read the row there."""
        ...

    def drop(self, one: str, /) -> int:
        """Forgets an id; its place, −1 where it was not held. From now on nobody reads the row there."""
        ...

    def find(self, one: str, /) -> int:
        """The place of an id, −1 where it is not held."""
        ...

    def find_all(self, ids: Sequence[str], places: NDArray[np.int64], /) -> None:
        """Writes the place of each id [n] into `places` [n]."""
        ...

    def id(self, place: int, /) -> str | None:
        """The id that a place holds."""
        ...

    def tail(self, place: int, /) -> bytes:
        """The tail that a place holds; empty where it holds no id."""
        ...

    def trim(self, most: int, /) -> bool:
        """Forgets at most so many of the last places; whether there are more."""
        ...


class PythonIdMap:
    """An IdMap of a dict and lists."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._ids: list[str | None] = []
        self._tails: list[bytes] = []

    @property
    def end(self) -> int:
        """The place after the last one."""
        return len(self._ids)

    def __len__(self) -> int:
        return len(self._places)

    def put(self, place: int, one: str, tail: bytes, /) -> None:
        """Puts an id into a place. Raises ValueError where either is held already."""
        if place < 0 or self.id(place) is not None or one in self._places:
            raise ValueError("the place, or the id, is held already")
        missing = place + 1 - len(self._ids)
        self._ids += [None] * missing
        self._tails += [b""] * missing
        self._ids[place], self._tails[place] = one, tail
        self._places[one] = place

    def drop(self, one: str, /) -> int:
        """Forgets an id; its place."""
        place = self._places.pop(one, _NOWHERE)
        if place >= 0:
            self._ids[place], self._tails[place] = None, b""
        return place

    def find(self, one: str, /) -> int:
        """The place of an id."""
        return self._places.get(one, _NOWHERE)

    def find_all(self, ids: Sequence[str], places: NDArray[np.int64], /) -> None:
        """The places of ids."""
        places[: len(ids)] = [self._places.get(one, _NOWHERE) for one in ids]

    def id(self, place: int, /) -> str | None:
        """The id in a place."""
        return self._ids[place] if 0 <= place < len(self._ids) else None

    def tail(self, place: int, /) -> bytes:
        """The tail in a place."""
        return self._tails[place] if 0 <= place < len(self._tails) else b""

    def trim(self, most: int, /) -> bool:
        """Forgets some of the last places."""
        kept = max(0, len(self._ids) - most)
        for one in self._ids[kept:]:
            if one is not None:
                del self._places[one]
        del self._ids[kept:], self._tails[kept:]
        return bool(self._ids)


def new_id_map() -> IdMap:
    """The native core's where there is one."""
    core = native.core
    return PythonIdMap() if core is None else core.IdMap()
