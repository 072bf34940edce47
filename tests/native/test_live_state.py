"""The core's live states: events fold as the reference folds them, and states are packed whole."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import core
from native.live_state import begin, unpack_state
from service.live.live_state import resumed, unpack_counts
from tests.reference import live as reference
from tests.reference.request import Seen

HALF_LIFE_S, LENGTH = 100.0, 4
TIMES = st.integers(0, 2_000).map(float)
ITEMS = st.sampled_from(["a", "b", "ü", "d", "😀"])
NUMBERS = st.integers(0, 2**20).map(float)
EVENTS = st.lists(
    st.builds(
        reference.Event,
        TIMES,
        st.booleans(),
        st.booleans(),
        st.one_of(st.none(), ITEMS),
        st.sampled_from([1.0, 1.0, 3.0]),
    ),
    max_size=12,
)
COUNTS = st.floats(0, 1e6), st.floats(0, 1e6), TIMES
HISTORIES = st.lists(st.builds(Seen, TIMES, ITEMS, NUMBERS, NUMBERS), max_size=3, unique_by=lambda seen: seen.item_id)


def taken(live: "core.LiveState", event: reference.Event, length: int = LENGTH) -> bool:
    """Fold an event; whether the row did not include it."""
    at, shown, clicked, item, times = event
    return live.take(
        half_life_s=HALF_LIFE_S,
        history_length=length,
        at=at,
        is_shown=shown,
        is_clicked=clicked,
        item=item,
        times=times,
    )


def assert_same(live: "core.LiveState | None", state: reference.State) -> None:
    assert live is not None
    history = tuple(Seen(*seen) for seen in live.history)
    assert (live.as_of, live.watermark, history) == (state.as_of, state.watermark, state.history)
    expected = pytest.approx((state.impressions, state.clicks), rel=1e-12, abs=1e-12)
    assert (live.impressions, live.clicks) == expected


@given(*COUNTS, HISTORIES, EVENTS)
def test_events_fold_as_the_reference_says(
    impressions: float, clicks: float, as_of: float, history: list[Seen], events: list[reference.Event]
) -> None:
    live = begin(impressions, clicks, as_of, history)
    state = reference.State(impressions, clicks, as_of, tuple(sorted(history)), as_of)
    for event in events:
        assert taken(live, event) is (event.at > as_of)
        if event.at > as_of:
            state = reference.fold(state, event, HALF_LIFE_S, LENGTH)

    assert_same(live, state)
    assert_same(unpack_state(live.pack()), reference.unpack(reference.pack(state)) or state)


@given(EVENTS.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_order_of_events_does_not_matter(orders: tuple[list[reference.Event], list[reference.Event]]) -> None:
    """An impression and its click are one event of training, in whatever order they come."""
    first, other = (begin(0.0, 0.0, -1.0) for _ in orders)
    for live, events in zip((first, other), orders, strict=True):
        for event in events:
            taken(live, event, length=99)

    assert (first.as_of, first.history) == (other.as_of, other.history)
    assert (first.impressions, first.clicks) == pytest.approx((other.impressions, other.clicks), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("length", "kinds", "kept"),
    [
        (4, "uuuuuu", "cdef"),
        (4, "cuuuuu", "cdef"),
        (1, "cu", "b"),
        # Clicks stay while they are a fifth of the items at most.
        (5, "cuuuuuu", "adefg"),
        (5, "ccuuuuu", "bdefg"),
        (5, "uuucccc", "cdefg"),
        (10, "ccuuuuuuuuuu", "abefghijkl"),
    ],
)
def test_full_history_drops_the_oldest_but_rare_clicks(length: int, kinds: str, kept: str) -> None:
    live = begin(0.0, 0.0, -1.0)
    for at, kind in enumerate(kinds):
        taken(live, reference.Event(float(at), True, kind == "c", "abcdefghijkl"[at]), length)

    assert "".join(item for _, item, _, _ in live.history) == kept


def test_longest_history_is_cut_with_one_event() -> None:
    history = tuple(Seen(float(at), f"i{at}", 1.0, float(at < 9)) for at in range(1_000))
    live, state = begin(1.0, 1.0, 5.0, history), reference.State(1.0, 1.0, 5.0, history)
    event = reference.Event(9e9, True, False, "new")
    taken(live, event, length=50)

    due = reference.fold(state, event, HALF_LIFE_S, 50).history
    assert tuple(Seen(*seen) for seen in live.history) == due
    assert [seen.item_id for seen in due] == [*(f"i{at}" for at in [*range(9), *range(960, 1_000)]), "new"]


def test_counts_halve_and_long_ages_do_not_overflow() -> None:
    live = begin(0.0, 0.0, -1.0)
    for at in (1_000.0, 1_100.0, 5.0, 1e9):
        taken(live, reference.Event(at, True, at == 1_000.0))
        if at == 1_100.0:
            assert (live.impressions, live.clicks, live.as_of) == (1.5, 0.5, 1_100.0)

    assert (live.impressions, live.clicks) == (1.0, 0.0)


def test_later_row_takes_the_place_of_a_state_and_an_earlier_one_does_not() -> None:
    live = begin(5, 1, 100.0)
    taken(live, reference.Event(300.0, True, False))
    for as_of, impressions in ((299.0, live.impressions), (300.0, 9.0)):
        assert resumed(live, begin(9, 9, as_of).pack()).impressions == impressions
    assert resumed(None, None).watermark == -1.0


PACKED: bytes = begin(3, 1, 10.0, [Seen(9.5, "ü", 2.0**24 + 1, 2.0)]).pack()
NAN = np.float64("nan").tobytes()


def with_impression(at: float, shown: float, clicks: float) -> bytes:
    return PACKED[:33] + struct.pack("<dffH", at, shown, clicks, 1) + b"a"


def test_packed_form_is_that_of_every_state() -> None:
    head = struct.pack("<Bdddd", 2, 3.0, 1.0, 10.0, 10.0)

    assert PACKED == head + struct.pack("<dffH", 9.5, 2.0**24, 2.0, 2) + "ü".encode()


@pytest.mark.parametrize(
    "packed",
    [b"", b"\x01", PACKED[:32], PACKED[:-1], PACKED[:40], b"\x01" + PACKED[1:], PACKED[:1] + NAN + PACKED[9:]]
    + [begin(-1.0, 0.0, 1.0).pack(), PACKED[:-2] + b"\xff\xff"]
    + [with_impression(math.inf, 1, 1), with_impression(1, -1, 1), with_impression(1, 1, math.nan)]
    + [with_impression(1, 2e30, 1)],
)
def test_damaged_bytes_are_no_state(packed: bytes) -> None:
    assert unpack_state(packed) is None


@given(st.one_of(st.binary(max_size=80), st.integers(0, 60).map(lambda cut: PACKED[:cut]), st.just(PACKED)))
def test_any_bytes_are_a_state_or_none(packed: bytes) -> None:
    live, counts = unpack_state(packed), unpack_counts([packed])

    if live is not None:
        assert counts.found[0]
        assert (counts.impressions[0], counts.clicks[0], counts.as_of[0]) == (live.impressions, live.clicks, live.as_of)
    assert np.isfinite([counts.impressions[0], counts.clicks[0], counts.as_of[0]]).all()
