"""Both id maps are one dictionary of ids, places and tails, whatever is done to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import native
from service.rows.arena import IdMap

assert native.core is not None, "tests of the core are collected where it is built"
core = native.core
IDS = [f"i{number}" for number in range(40)] + ["", "é", "東京", "😀" * 64, "x" * 256]


class Maps(RuleBasedStateMachine):
    """The core's map beside Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = (core.IdMap(), IdMap())

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
TestMaps.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@given(st.lists(st.integers(0, 5_000), unique=True, max_size=400))
def test_many_ids_come_and_go(numbers: list[int]) -> None:
    """Deletion without tombstones: what is left is found, whatever was dropped before."""
    ids = core.IdMap()
    for place, number in enumerate(numbers):
        ids.put(place, str(number), b"")
    dropped = set(numbers[::2])
    for number in dropped:
        assert ids.drop(str(number)) == numbers.index(number)
    for place, number in enumerate(numbers):
        assert ids.find(str(number)) == (-1 if number in dropped else place)


@pytest.mark.parametrize("given_", [("a",), (0, "a"), ("x", "a", b""), (0, 1, b""), (0, "a", "b"), (2**70, "a", b"")])
def test_invalid_entry_is_refused(given_: tuple[object, ...]) -> None:
    ids = core.IdMap()
    with pytest.raises((TypeError, OverflowError, ValueError)):
        ids.put(*given_)
    assert len(ids) == 0
