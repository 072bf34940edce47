"""Both id maps are one dictionary of ids, places and tails, whatever is done to them."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

import native
from tests.docs.pages import ROOT

assert native.core is not None, "tests of the core are collected where it is built"
core = native.core
IDS = [f"i{number}" for number in range(40)] + ["", "é", "東京", "😀" * 64, "x" * 256]


class IdMap:
    """Map from IDs to places of an arena, each with a tail of bytes: what the core's `IdMap` does."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places: dict[str, int] = {}
        self._ids: list[str | None] = []
        self._tails: list[bytes] = []

    @property
    def end(self) -> int:
        """The place after the last one that has, or had, an ID."""
        return len(self._ids)

    def __len__(self) -> int:
        return len(self._places)

    def put(self, place: int, row_id: str, tail: bytes, /) -> None:
        """Put an ID into a free place, in exchange for the one that it had. Raises ValueError if the place is taken."""
        if not 0 <= place < self._capacity or self.id(place) is not None:
            raise ValueError("the place is held already, or there is no such place")
        self.drop(row_id)
        missing = place + 1 - len(self._ids)
        self._ids += [None] * missing
        self._tails += [b""] * missing
        self._ids[place], self._tails[place] = row_id, tail
        self._places[row_id] = place

    def drop(self, row_id: str, /) -> int:
        """Forget an ID; return its place, −1 if it had none. From now on nothing reads the row there."""
        place = self._places.pop(row_id, -1)
        if place >= 0:
            self._ids[place], self._tails[place] = None, b""
        return place

    def find(self, row_id: str, /) -> int:
        return self._places.get(row_id, -1)

    def find_all(self, ids: Sequence[str], places: NDArray[np.int64], /) -> None:
        """Write the place of each id [n] into `places` [n]."""
        places[: len(ids)] = [self._places.get(row_id, -1) for row_id in ids]

    def id(self, place: int, /) -> str | None:
        return self._ids[place] if 0 <= place < len(self._ids) else None

    def tail(self, place: int, /) -> bytes:
        return self._tails[place] if 0 <= place < len(self._tails) else b""

    def trim(self, most: int, /) -> bool:
        """Forget up to `count` of the last places; return whether there are more."""
        kept = max(0, len(self._ids) - most)
        for row_id in self._ids[kept:]:
            if row_id is not None:
                del self._places[row_id]
        del self._ids[kept:], self._tails[kept:]
        self._capacity *= bool(self._ids)
        return bool(self._ids)


class Maps(RuleBasedStateMachine):
    """The core's map beside Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: tuple[core.IdMap | IdMap, ...] = (core.IdMap(50), IdMap(50))

    @rule(place=st.integers(-1, 60), id_=st.sampled_from(IDS), tail=st.binary(max_size=40))
    def put(self, place: int, id_: str, tail: bytes) -> None:
        outcomes = []
        for ids in self.maps:
            try:
                ids.put(place, id_, tail)
            except ValueError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("")
        assert outcomes[0] == outcomes[1]

    @rule(id_=st.sampled_from(IDS))
    def drop(self, id_: str) -> None:
        mine, theirs = (ids.drop(id_) for ids in self.maps)
        assert mine == theirs

    @rule(most=st.integers(0, 30))
    def trim(self, most: int) -> None:
        mine, theirs = (ids.trim(most) for ids in self.maps)
        assert mine == theirs

    @invariant()
    def alike(self) -> None:
        mine, theirs = self.maps
        assert (len(mine), mine.end) == (len(theirs), theirs.end)
        places = [np.full(len(IDS), -7, np.int64) for _ in self.maps]
        for ids, found in zip(self.maps, places, strict=True):
            ids.find_all(IDS, found)
        assert places[0].tolist() == places[1].tolist() == [mine.find(id_) for id_ in IDS]
        for place in range(-1, mine.end + 1):
            assert (mine.id(place), mine.tail(place)) == (theirs.id(place), theirs.tail(place))


TestMaps = Maps.TestCase
TestMaps.settings = settings(max_examples=60, stateful_step_count=60)


@given(st.lists(st.integers(0, 5_000), unique=True, max_size=400))
def test_many_ids_come_and_go(numbers: list[int]) -> None:
    """Deletion without tombstones: what is left is found, whatever was dropped before."""
    ids = core.IdMap(400)
    for place, number in enumerate(numbers):
        ids.put(place, str(number), b"")
    dropped = set(numbers[::2])
    for number in dropped:
        assert ids.drop(str(number)) == numbers.index(number)
    for place, number in enumerate(numbers):
        assert ids.find(str(number)) == (-1 if number in dropped else place)


@pytest.mark.parametrize("given_", [("a",), (0, "a"), ("x", "a", b""), (0, 1, b""), (0, "a", "b"), (2**70, "a", b"")])
def test_invalid_entry_is_refused(given_: tuple[object, ...]) -> None:
    ids = core.IdMap(400)
    with pytest.raises((TypeError, OverflowError, ValueError)):
        ids.put(*given_)  # type: ignore[arg-type]
    assert len(ids) == 0


def test_names_that_clients_choose_are_hashed_with_a_seed() -> None:
    for path in (ROOT / "native/core").glob("*.hpp"):
        for found in re.findall(r"unordered_(?:map|set)<std::string_view[^;]*", path.read_text("utf-8")):
            assert "SeededHash" in found, f"{path.name}: {found}"
