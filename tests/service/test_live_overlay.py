"""Live states laid over rows: which of both counts, how old it is said to be, and what stays as it was."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.rows import RowCodec, RowContents, Rows, RowSide
from msd.contract.state import EntityState, StateRule, advance
from service.live.live_state import LiveState, pack_state
from service.live.overlay import AsOf, state_rules, with_counts, with_history
from service.live.store import PackedStates, Stream, after, stretches
from tests.bundles.factory import example_schema

SCHEMA = example_schema()
RULE = StateRule(2_592_000.0, 6)
DAY, LAG = 86_400.0, 900.0
WEEK_OLD = 1e9
NOW = WEEK_OLD + 7 * DAY
FLOWING = Stream(WEEK_OLD, NOW - 1)


def rows(side: RowSide, as_of: Sequence[float], history: tuple[str, ...] = ()) -> Rows:
    """Rows with 100 impressions and 10 clicks each, complete up to some times."""
    codec, count = RowCodec(SCHEMA, side, "0" * 32), len(as_of)
    missing = np.repeat(codec.missing, count)
    contents = RowContents(
        missing["categorical"],
        missing["numeric"],
        None,
        np.zeros(count, bool),
        np.full(count, 100.0),
        np.full(count, 10.0),
        np.array(as_of),
    )
    found = np.ones(count, bool)
    return Rows(codec.pack(contents, NOW), found, (history,) * count if side == "user" else (), 0)


def live(impressions: float, clicks: float, as_of: float, *likes: str) -> bytes:
    """A packed state."""
    return pack_state(LiveState(EntityState(impressions, clicks, as_of, tuple((as_of, one) for one in likes)), 0.0))


def counts(given: Rows, states: PackedStates) -> Rows:
    """The rows with live counts, where the export reaches to WEEK_OLD."""
    assert states.stream is not None
    return with_counts(given, states, RULE.half_life_s, AsOf(NOW, states.stream, WEEK_OLD, LAG))


def expected(impressions: float, clicks: float, as_of: float, to: float) -> tuple[object, object, float]:
    """As the fold has it; rows keep counts in single precision."""
    state = advance(RULE, EntityState(impressions, clicks, as_of), to)
    return pytest.approx(state.impressions), pytest.approx(state.clicks), state.as_of


def told(records: Rows, place: int) -> tuple[float, float, float]:
    """Impressions, clicks and as_of of one row."""
    one = records.records[place]
    return float(one["impressions"]), float(one["clicks"]), float(one["as_of"])


def test_the_later_of_state_and_row_counts_and_both_are_fresh_while_events_flow() -> None:
    given = rows("item", [WEEK_OLD] * 3)
    found = counts(given, PackedStates([live(7, 3, NOW - DAY), None, live(7, 3, WEEK_OLD - DAY)], FLOWING))

    assert told(found, 0) == expected(7, 3, NOW - DAY, NOW)
    assert told(found, 1) == told(found, 2) == expected(100, 10, WEEK_OLD, NOW)
    assert told(given, 0) == (100, 10, WEEK_OLD)


def test_after_a_silence_counts_are_as_old_as_the_last_event() -> None:
    until = NOW - LAG - 1
    found = counts(rows("item", [WEEK_OLD] * 2), PackedStates([live(7, 3, until - DAY), None], Stream(WEEK_OLD, until)))

    assert told(found, 0) == expected(7, 3, until - DAY, until)
    assert told(found, 1) == expected(100, 10, WEEK_OLD, until)


def test_a_row_that_the_stream_does_not_follow_keeps_its_own_age() -> None:
    gap = Stream(WEEK_OLD + LAG + 1, NOW)
    found = counts(rows("item", [WEEK_OLD] * 2), PackedStates([live(7, 3, NOW - DAY), None], gap))

    assert told(found, 0)[2] == NOW
    assert told(found, 1) == (100, 10, WEEK_OLD)


def test_a_user_without_late_events_is_as_complete_as_the_export() -> None:
    """Whose row ends with his last event, long before the stream begins."""
    found = counts(rows("user", [WEEK_OLD - 50 * DAY]), PackedStates([None], FLOWING))

    assert told(found, 0) == expected(100, 10, WEEK_OLD - 50 * DAY, NOW)


def test_what_could_not_be_asked_for_is_not_taken_for_nothing() -> None:
    states = PackedStates([None, None, live(7, 3, NOW - DAY)], FLOWING, np.array([False, True, False]))
    found = counts(rows("item", [WEEK_OLD] * 3), states)

    assert told(found, 0) == (100, 10, WEEK_OLD)
    assert [told(found, place)[2] for place in (1, 2)] == [NOW, NOW]


def test_rows_behind_the_candidates_stay_as_they_are() -> None:
    found = counts(rows("item", [WEEK_OLD] * 3), PackedStates([None], FLOWING))

    assert [told(found, place)[2] for place in range(3)] == [NOW, WEEK_OLD, WEEK_OLD]


@pytest.mark.parametrize(
    ("packed", "history"),
    [
        (None, ("a",)),
        (b"damaged", ("a",)),
        (live(1, 1, WEEK_OLD - 1, "x"), ("a",)),
        (live(1, 1, WEEK_OLD, "x"), ("a",)),
        (live(1, 1, WEEK_OLD + 1, "a", "x"), ("a", "x")),
    ],
)
def test_the_history_is_that_of_the_later(packed: bytes | None, history: tuple[str, ...]) -> None:
    user = rows("user", [WEEK_OLD], ("a",))
    assert with_history(user, PackedStates([packed], FLOWING)).histories == (history,)


def test_rules_are_those_of_the_schemas_counts() -> None:
    assert state_rules(SCHEMA) == {"user": RULE, "item": RULE}
    without = SCHEMA.model_copy(update={"fields": tuple(one for one in SCHEMA.fields if one.kind != "state")})
    assert state_rules(without)["user"].half_life_s == 30 * DAY


TIMES = st.lists(st.integers(0, 50).map(float), min_size=1, max_size=12)


@given(TIMES, st.integers(1, 10))
def test_a_stream_has_no_silence_that_is_too_long_and_ends_with_its_last_event(times: list[float], lag_s: int) -> None:
    stream: Stream | None = None
    for stretch in stretches(times, lag_s):
        stream = after(stream, stretch, lag_s)
    assert stream is not None
    inside = sorted(at for at in times if at >= stream.since)

    assert stream.until == max(times)
    assert inside[0] == stream.since
    assert all(later - earlier <= lag_s for earlier, later in zip(inside, inside[1:], strict=False))
    before = [at for at in times if at < stream.since]
    assert not before or stream.since - max(before) > lag_s
    assert Stream.unpack(stream.pack()) == stream
