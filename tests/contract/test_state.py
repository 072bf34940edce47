"""The fold: whatever order events come in, counts equal their closed form and a history has the same impressions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.state import EntityState, Event, Impression, StateRule, advance, fold, remember
from tests.contract.examples import assert_close, fold_all

RULE = StateRule(half_life_s=100.0, history_length=4)
TIMES = st.integers(0, 2_000).map(float)
ITEMS = st.sampled_from(["a", "b", "c", "d", None])
EVENTS = st.lists(st.builds(Event, TIMES, st.booleans(), ITEMS, shown=st.just(True), times=st.just(1.0)), max_size=12)


def closed_form(events: list[Event], as_of: float) -> float:
    """Σ 2^−((as_of − t) / half-life)."""
    return math.fsum(2.0 ** (-(as_of - event.at) / RULE.half_life_s) for event in events)


@given(EVENTS.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_order_of_events_does_not_matter(orders: tuple[list[Event], list[Event]]) -> None:
    events, shuffled = orders

    assert_close(fold_all(RULE, events), fold_all(RULE, shuffled))


@given(EVENTS)
def test_counts_equal_their_closed_form(events: list[Event]) -> None:
    state = fold_all(RULE, events)

    assert state.as_of == max((event.at for event in events), default=0.0)
    assert state.impressions == pytest.approx(closed_form(events, state.as_of), rel=1e-9)
    assert state.clicks == pytest.approx(closed_form([event for event in events if event.clicked], state.as_of))
    assert state.clicks <= state.impressions * (1 + 1e-9)


@given(EVENTS)
def test_history_has_each_item_once_with_all_its_impressions(events: list[Event]) -> None:
    expected = []
    for item_id in {event.item_id for event in events if event.item_id is not None}:
        own = [event for event in events if event.item_id == item_id]
        at = max(event.at for event in own)
        expected.append(Impression(at, item_id, len(own), sum(event.clicked for event in own)))

    assert fold_all(RULE, events).history == tuple(sorted(expected))


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
    events = [Event(float(at), kind == "c", "abcdefghijkl"[at]) for at, kind in enumerate(kinds)]
    state = fold_all(StateRule(100.0, length), events)

    assert "".join(seen.item_id for seen in state.history) == kept


def test_history_of_a_longer_rule_is_cut() -> None:
    state = fold_all(StateRule(100.0, 9), [Event(float(at), at < 1, "abcdefghi"[at]) for at in range(9)])
    cut = fold(StateRule(100.0, 5), state, Event(9.0, False, "j"))

    assert "".join(seen.item_id for seen in cut.history) == "aghij"


class Compared(float):
    """A number that counts how often it is compared."""

    times = 0

    def __gt__(self, other: float) -> bool:
        Compared.times += 1
        return float(self) > other


def test_history_of_any_length_is_cut_in_one_pass() -> None:
    Compared.times, size = 0, 2_000
    history = tuple(Impression(float(at), f"i{at}", 1.0, Compared(at < 9)) for at in range(size))
    cut = remember(history, Impression(9e9, "new"), 50)

    assert [seen.item_id for seen in cut] == [*(f"i{at}" for at in [*range(9), *range(1_960, 2_000)]), "new"]
    assert Compared.times <= 3 * size


def drop_one_by_one(held: list[Impression], length: int) -> tuple[Impression, ...]:
    """What stays, as the docs say it: of too many items one goes at a time."""
    while len(held) > length:
        clicked = [known.clicked > 0 for known in held]
        del held[clicked.index(False) if sum(clicked) <= length // 5 else 0]
    return tuple(held)


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0]), max_size=40), st.integers(1, 30))
def test_cut_keeps_what_stays_if_items_go_one_by_one(clicks: list[float], length: int) -> None:
    history = tuple(Impression(float(at), f"i{at}", 1.0, clicked) for at, clicked in enumerate(clicks))
    new = Impression(9.5, "new")

    assert remember(history, new, length) == drop_one_by_one(sorted([*history, new]), length)


@given(EVENTS, TIMES, TIMES)
def test_advancing_twice_is_advancing_once_and_never_back(events: list[Event], first: float, second: float) -> None:
    state = fold_all(RULE, events)

    assert_close(advance(RULE, advance(RULE, state, first), second), advance(RULE, state, max(first, second)))
    assert advance(RULE, state, min(first, state.as_of)) is state


@given(EVENTS, TIMES)
def test_advancing_between_events_changes_nothing(events: list[Event], at: float) -> None:
    """Reading a state at some time, and keeping what was read, loses nothing."""
    half = len(events) // 2
    read = advance(RULE, fold_all(RULE, events[:half]), at)
    end = max([at, *(event.at for event in events)])

    assert_close(advance(RULE, fold_all(RULE, events[half:], read), end), advance(RULE, fold_all(RULE, events), end))


def test_counts_halve_and_late_events_count_as_in_time() -> None:
    state = advance(RULE, fold(RULE, EntityState(), Event(1_000.0, True, "a")), 1_100.0)

    assert state == EntityState(0.5, 0.5, 1_100.0, (Impression(1_000.0, "a"),))
    assert fold(RULE, EntityState(as_of=1_100.0), Event(1_000.0, False)) == EntityState(0.5, 0.0, 1_100.0)
    assert fold(RULE, EntityState(), Event(5.0, True)) == EntityState(1.0, 1.0, 5.0)
    assert fold_all(RULE, [Event(1.0, True, "a"), Event(1.0, True, "a")]).history == (Impression(1.0, "a", 2.0, 2.0),)


def test_long_ages_do_not_overflow() -> None:
    state = fold_all(StateRule(0.001, 3), [Event(0.0, True, "a"), Event(1.8e9, True, "b"), Event(5.0, True, "c")])

    assert (state.impressions, [seen.item_id for seen in state.history]) == (1.0, ["a", "c", "b"])
