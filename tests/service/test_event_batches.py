"""Events on the wire: what is taken, and how what is not is answered."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.request import InvalidRequest, MalformedRequest, RequestError
from service.live.events import MAX_EVENTS, TooManyEvents, parse_events

CLICK = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i:1", "at": 1e9, "request_id": "r"}


def body(*events: Any) -> bytes:  # noqa: ANN401 - whatever a client may send
    return json.dumps({"events": events}).encode()


def test_events_are_read_as_they_were_written() -> None:
    bare = {name: CLICK[name] for name in ("event_id", "type", "user_id", "item_id")}
    read = parse_events(body(CLICK, {**bare, "type": "impression", "at": None, "request_id": None}))

    assert read[0].model_dump() == CLICK
    assert (read[1].type, read[1].at, read[1].request_id) == ("impression", None, None)


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
        (body({name: value for name, value in CLICK.items() if name != "type"}), "events.0.type"),
        (body({**CLICK, "user_id": "\ud800"}), "events.0.user_id"),
    ],
)
def test_what_is_no_event_is_invalid_and_says_where(document: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_events(document)
    assert raised.value.field == field


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
def test_what_is_no_json_or_ambiguous_is_malformed(document: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_events(document)


def test_a_batch_is_bounded() -> None:
    assert len(parse_events(body(*[CLICK] * MAX_EVENTS))) == MAX_EVENTS
    with pytest.raises(TooManyEvents, match="1001 events; the limit is 1000: split the batch"):
        parse_events(body(*[CLICK] * (MAX_EVENTS + 1)))


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_a_request_error(document: bytes) -> None:
    with pytest.raises(RequestError):
        parse_events(document)
