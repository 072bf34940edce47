"""Live states: the same in whatever order events come, begun by rows and counting nothing twice, packed whole."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.request import InvalidRequest, MalformedRequest
from msd.contract.rows import RowCodec, RowContents, Rows, RowSide
from msd.contract.state import Impression, StateRule, state_rules
from native.live_state import unpack_state
from service.limits import MAX_EVENTS
from service.live.overlay import with_history
from service.live.store import Stream, after, stretches
from service.routes.events_route import TooManyEvents, parse_events
from tests.bundles.factory import example_schema
from tests.contract.examples import clicked
from tests.reference import live as reference
from tests.reference.request import Seen

SCHEMA = example_schema()
MONTHLY = StateRule(2_592_000.0, 6)
DAY, LAG = 86_400.0, 900.0
WEEK_OLD = 1e9
NOW = WEEK_OLD + 7 * DAY
FLOWING = Stream(WEEK_OLD, NOW - 1)
SINCE_SILENCE, AFTER_GAP = Stream(WEEK_OLD, NOW - LAG - 1), Stream(WEEK_OLD + LAG + 1, NOW)


def rows(side: RowSide, as_of: Sequence[float], history: tuple[Impression, ...] = ()) -> Rows:
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


def live(impressions: float, clicks: float, as_of: float, *item_ids: str) -> bytes:
    history = tuple(Seen(as_of, item) for item in item_ids)
    return reference.pack(reference.State(impressions, clicks, as_of, history))


def expected(impressions: float, clicks: float, as_of: float, to: float) -> tuple[object, object, float]:
    """As the fold has it; rows keep counts in single precision."""
    state = reference.advance(reference.State(impressions, clicks, as_of), to, MONTHLY.half_life_s)
    return pytest.approx(state.impressions), pytest.approx(state.clicks), state.as_of


SILENT = NOW - LAG - 1
OWN = (100, 10, WEEK_OLD)


@pytest.mark.parametrize(
    ("side", "row_at", "packed", "stream", "known", "due"),
    [
        # The later of state and row counts, and both are fresh while events flow.
        ("item", WEEK_OLD, live(7, 3, NOW - DAY), FLOWING, None, expected(7, 3, NOW - DAY, NOW)),
        ("item", WEEK_OLD, None, FLOWING, None, expected(100, 10, WEEK_OLD, NOW)),
        ("item", WEEK_OLD, live(7, 3, WEEK_OLD - DAY), FLOWING, None, expected(100, 10, WEEK_OLD, NOW)),
        # After a silence, counts are as old as the last event.
        ("item", WEEK_OLD, live(7, 3, SILENT - DAY), SINCE_SILENCE, None, expected(7, 3, SILENT - DAY, SILENT)),
        ("item", WEEK_OLD, None, SINCE_SILENCE, None, expected(100, 10, WEEK_OLD, SILENT)),
        # A row that the stream does not follow keeps its own age.
        ("item", WEEK_OLD, live(7, 3, NOW - DAY), AFTER_GAP, None, expected(7, 3, NOW - DAY, NOW)),
        ("item", WEEK_OLD, None, AFTER_GAP, None, OWN),
        # A user's row ends with the last event; it is as complete as the export.
        ("user", WEEK_OLD - 50 * DAY, None, FLOWING, None, expected(100, 10, WEEK_OLD - 50 * DAY, NOW)),
        # Unavailable states keep their rows.
        ("item", WEEK_OLD, None, FLOWING, False, OWN),
        ("item", WEEK_OLD, None, FLOWING, True, expected(100, 10, WEEK_OLD, NOW)),
        ("item", WEEK_OLD, live(7, 3, NOW - DAY), FLOWING, False, expected(7, 3, NOW - DAY, NOW)),
    ],
)
def test_counts_are_the_later_ones_as_old_as_the_stream(
    side: RowSide, row_at: float, packed: bytes | None, stream: Stream, known: bool | None, due: tuple[object, ...]
) -> None:
    given = rows(side, [row_at] * 2)
    followed = reference.Stream(*stream, LAG)
    is_known = None if known is None else [known]
    found = reference.lay_over(given.records, [packed], is_known, MONTHLY.half_life_s, followed, NOW, WEEK_OLD)

    names = ["impressions", "clicks", "as_of"]
    assert tuple(map(float, found[names][0].tolist())) == due
    # Rows behind the candidates stay as they are, and so do those given.
    for row in (found[1], given.records[0]):
        assert row[names].tolist() == (100, 10, row_at)


@pytest.mark.parametrize(
    ("packed", "history"),
    [
        (None, clicked("a")),
        (b"damaged", clicked("a")),
        (live(1, 1, WEEK_OLD - 1, "x"), clicked("a")),
        (live(1, 1, WEEK_OLD, "x"), clicked("a")),
        (live(1, 1, WEEK_OLD + 1, "a", "x"), clicked("a", "x", at=WEEK_OLD + 1)),
    ],
)
def test_history_is_that_of_the_later(packed: bytes | None, history: tuple[Impression, ...]) -> None:
    user = rows("user", [WEEK_OLD], clicked("a"))
    assert with_history(user, unpack_state(packed)).histories == (history,)


def test_rules_are_those_of_the_schemas_counts() -> None:
    assert state_rules(SCHEMA) == {"user": MONTHLY, "item": MONTHLY}
    without = SCHEMA.model_copy(update={"fields": tuple(field for field in SCHEMA.fields if field.kind != "state")})
    assert state_rules(without)["user"].half_life_s == 30 * DAY


@given(st.lists(st.integers(0, 50).map(float), min_size=1, max_size=12), st.integers(1, 10))
def test_stream_has_no_silence_that_is_too_long_and_ends_with_its_last_event(times: list[float], lag_s: int) -> None:
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


CLICK = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i:1", "at": 1e9, "request_id": "r"}
CONVERSION, SHOWN = {**CLICK, "type": "conversion"}, {**CLICK, "type": "impression"}


def body(*events: Any) -> bytes:  # noqa: ANN401 - whatever a client may send
    return json.dumps({"events": events}).encode()


def test_events_are_read_as_they_were_written() -> None:
    bare = {name: CLICK[name] for name in ("event_id", "type", "user_id", "item_id")}
    read = parse_events(body(CLICK, {**bare, "type": "impression", "at": None, "request_id": None}))

    assert read[0].model_dump(exclude_unset=True) == CLICK
    assert read[0].position is None
    assert (read[1].type, read[1].at, read[1].request_id) == ("impression", None, None)
    (worth,) = parse_events(body({**CONVERSION, "value": 0, "currency": "EUR"}))
    assert (worth.value, worth.currency) == (0.0, "EUR")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (b"[]", None),
        (b"{}", "events"),
        (body(), "events"),
        (json.dumps({"events": None}).encode(), "events"),
        (json.dumps({"events": [CLICK], "more": 1}).encode(), "more"),
        (body("click"), "events.0"),
        (body(CLICK, {**CLICK, "event_id": ""}), "events.1.event_id"),
        (body({**CLICK, "event_id": "x" * 257}), "events.0.event_id"),
        (body({**CLICK, "user_id": "a\0b"}), "events.0.user_id"),
        (body({**CLICK, "item_id": 3}), "events.0.item_id"),
        (body({**CLICK, "type": "view"}), "events.0.type"),
        (body({**CLICK, "at": -1}), "events.0.at"),
        (body({**CLICK, "at": 1_764_066_000_000}), "events.0.at"),
        (body({**CLICK, "at": True}), "events.0.at"),
        (body({**CLICK, "at": "1764066000"}), "events.0.at"),
        (body({**CLICK, "price": 3}), "events.0.price"),
        (body({**CLICK, "value": 3}), "events.0.value"),
        (body({**CLICK, "currency": "EUR"}), "events.0.currency"),
        (body({**CONVERSION, "value": -0.01}), "events.0.value"),
        (body({**CONVERSION, "value": 1.1e12}), "events.0.value"),
        (body({**CONVERSION, "value": "3"}), "events.0.value"),
        (body({**CONVERSION, "value": True}), "events.0.value"),
        (body({**CONVERSION, "value": 3, "currency": "cents"}), "events.0.currency"),
        (body({**CONVERSION, "value": 3, "currency": "eur"}), "events.0.currency"),
        (body({**CONVERSION, "value": 3, "currency": "EUR\n"}), "events.0.currency"),
        (body({name: value for name, value in CLICK.items() if name != "type"}), "events.0.type"),
        (body({**CLICK, "user_id": "\ud800"}), "events.0.user_id"),
        (body({**CLICK, "position": 1}), "events.0.position"),
        *((body({**SHOWN, "position": place}), "events.0.position") for place in (0, 256, 1.0, True, "1", [1])),
    ],
)
def test_invalid_event_is_refused_by_its_field(document: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_events(document)
    assert raised.value.field == field


def test_anonymous_event_says_so() -> None:
    assert parse_events(body({**CLICK, "user_id": None}))[0].user_id is None
    for lacking in ({**CLICK, "user_id": ""}, {name: value for name, value in CLICK.items() if name != "user_id"}):
        with pytest.raises(InvalidRequest) as raised:
            parse_events(body(lacking))
        assert raised.value.field == "events.0.user_id"


def test_position_is_a_place_of_the_page() -> None:
    assert [parse_events(body({**SHOWN, "position": place}))[0].position for place in (1, 255, None)] == [1, 255, None]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"\xff",
        body(CLICK)[:-1],
        body({**CLICK, "at": float("nan")}),
        body(CLICK).replace(b'"at"', b'"type": "click", "at"'),
        b'{"events": [], ' + body(CLICK)[1:],
        b"[" * 100_000,
    ],
)
def test_malformed_events_are_refused(document: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_events(document)


def test_batch_is_bounded() -> None:
    assert len(parse_events(body(*[CLICK] * MAX_EVENTS))) == MAX_EVENTS
    with pytest.raises(TooManyEvents, match="1001 events; the limit is 1000: split the batch"):
        parse_events(body(*[CLICK] * (MAX_EVENTS + 1)))
