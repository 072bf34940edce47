"""Live states: the same in whatever order events come, begun by rows and counting nothing twice, packed whole."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.state import EntityState, Event, StateRule, fold
from service.live.live_state import (
    NOTHING,
    LiveState,
    begin,
    current,
    pack_state,
    take,
    unpack_counts,
    unpack_state,
)
from tests.contract.test_state import assert_close

RULE = StateRule(half_life_s=100.0, history_length=3)
TIMES = st.integers(0, 2_000).map(float)
ITEMS = st.sampled_from(["a", "b", "ü", "d"])
TOLD = st.lists(
    st.one_of(
        st.builds(lambda at: Event(at, False), TIMES),
        st.builds(lambda at, item: Event(at, True, item, shown=False), TIMES, ITEMS),
    ),
    max_size=12,
)
ROWS = st.builds(
    begin,
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    TIMES,
    st.lists(ITEMS, max_size=3).map(tuple),
)
STATES = st.one_of(st.just(NOTHING), ROWS, st.tuples(ROWS, TOLD).map(lambda both: taken(*both)))


def taken(live: LiveState, events: list[Event]) -> LiveState:
    """The state after all events."""
    for event in events:
        live = take(RULE, live, event)
    return live


@given(ROWS, TOLD.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_the_order_of_events_changes_nothing(row: LiveState, orders: tuple[list[Event], list[Event]]) -> None:
    one, other = (taken(row, events) for events in orders)

    assert_close(one.state, other.state)
    assert one.watermark == other.watermark == row.watermark


@given(STATES, TIMES, ITEMS)
def test_an_impression_and_its_click_are_one_event_of_training(live: LiveState, at: float, item: str) -> None:
    state = live.state
    shown, clicked, both = Event(at, False), Event(at, True, item, shown=False), Event(at, True, item)

    assert_close(fold(RULE, fold(RULE, state, shown), clicked), fold(RULE, state, both))
    assert_close(fold(RULE, fold(RULE, state, clicked), shown), fold(RULE, state, both))


@given(ROWS, TOLD)
def test_what_the_row_knows_of_is_not_counted_again(row: LiveState, events: list[Event]) -> None:
    new = [event for event in events if event.at > row.watermark]

    assert taken(row, events) == taken(row, new)
    assert (taken(row, events) == row) == (not new)


def test_a_later_row_takes_the_place_of_a_state_and_an_earlier_one_does_not() -> None:
    live = taken(begin(5, 1, 100.0), [Event(300.0, False)])

    assert current(live, begin(9, 9, 299.0)) is live
    assert current(live, later := begin(9, 9, 300.0)) is later
    assert current(None, later) is later


@given(STATES)
def test_states_are_packed_whole(live: LiveState) -> None:
    assert unpack_state(pack_state(live)) == live


@given(st.lists(st.one_of(st.none(), STATES), max_size=5))
def test_counts_of_many_are_those_of_each(states: list[LiveState | None]) -> None:
    counts = unpack_counts([None if one is None else pack_state(one) for one in states])

    assert counts.found.tolist() == [one is not None for one in states]
    found = [one.state if one else EntityState() for one in states]
    for name in ("impressions", "clicks", "as_of"):
        assert getattr(counts, name).tolist() == [getattr(one, name) for one in found]


PACKED = pack_state(taken(begin(3, 1, 10.0, ["a", "b"]), [Event(20.0, True, "ü", shown=False)]))
NAN = np.float64("nan").tobytes()


@pytest.mark.parametrize(
    "packed",
    [b"", b"\x01", PACKED[:32], PACKED[:-1], PACKED[:40], b"\x02" + PACKED[1:], PACKED[:1] + NAN + PACKED[9:]]
    + [pack_state(LiveState(EntityState(-1.0, 0.0, 1.0), 0.0)), PACKED[:-2] + b"\xff\xff"],
)
def test_what_is_not_a_state_is_none(packed: bytes) -> None:
    assert unpack_state(packed) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_a_state_or_none(packed: bytes) -> None:
    live = unpack_state(packed)
    counts = unpack_counts([packed])

    if live is not None:
        assert counts.found[0]
        assert counts.impressions[0] == live.state.impressions
    assert np.isfinite([counts.impressions[0], counts.clicks[0], counts.as_of[0]]).all()


def test_seeds_keep_their_order_before_all_that_comes() -> None:
    live = taken(begin(0, 0, 50.0, ["d", "a"]), [Event(60.0, True, "b", shown=False), Event(55.0, True, "c", False)])

    assert live.state.history == ("a", "c", "b")
    assert replace(live.state, likes=()) == replace(
        taken(begin(0, 0, 50.0), [Event(60.0, True, None, False), Event(55.0, True, None, False)]).state, likes=()
    )
