"""Any bytes give a request or a RequestError."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.request import CheckedRequest, MalformedRequest, RequestError, parse_request
from tests.bundles.factory import golden_requests
from tests.contract.examples import SCHEMA, any_json


def outcome(body: bytes) -> CheckedRequest | None:
    """The request, or None when it is refused in the proper way; anything else fails the test."""
    try:
        return parse_request(body, SCHEMA)
    except RequestError as refused:
        error = refused
    assert error.code in ("malformed", "invalid", "too_many_candidates")
    assert error.message
    assert error.field != ""
    return None


TEXT = st.text(st.characters(), max_size=8)  # halves of surrogate pairs among them
WORDS = TEXT | st.sampled_from(["user_id", "candidates", "id", "bid", "items", "i1", "features", "age", "hour", "text"])


@settings(max_examples=600)
@given(st.binary() | st.text().map(str.encode) | any_json(WORDS).map(json.dumps).map(str.encode))
def test_any_bytes_and_json_are_rejected(body: bytes) -> None:
    assert outcome(body) is None


@settings(max_examples=400)
@given(st.data())
def test_any_change_of_a_request_is_parsed_or_rejected(data: st.DataObject) -> None:
    """One place of a good request, at any depth, holds any JSON."""
    document = data.draw(st.sampled_from(golden_requests()[:4]))
    text = json.dumps(document)
    places = [place for place in places_of(document) if place]
    place = data.draw(st.sampled_from(places))
    changed = json.loads(text)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = data.draw(any_json(WORDS))

    request = outcome(json.dumps(changed).encode())
    assert request is None or len(request.ids) == len(changed["candidates"]["id"])


def places_of(value: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, part in parts for inner in places_of(part, (*place, key)))]


def keys(count: int) -> dict[str, object]:
    return {f"k{place}": 1 for place in range(count)}


USER: dict[str, object] = {"user_id": "u1", "candidates": {"id": ["i1"]}}
WIDE: dict[str, dict[str, object]] = {
    "keys": keys(90_000),
    "columns": USER | {"candidates": keys(90_000)},
    "ids that are numbers": USER | {"candidates": {"id": [1] * 300_000}},
    "bids below 0": USER | {"candidates": {"id": ["i1"], "bid": [-1] * 300_000}},
    "items that are numbers": USER | {"items": keys(80_000)},
    "empty items": USER | {"items": dict.fromkeys(keys(60_000))},
    "features": USER | {"context": keys(90_000)},
    "features of the user": USER | {"user": {"features": keys(90_000)}},
    "features of an item": USER | {"items": {"i1": {"features": keys(90_000)}}},
    "a history of numbers": USER | {"user": {"history": [1] * 300_000}},
}


@pytest.mark.parametrize("name", WIDE)
def test_many_errors_need_little_memory(name: str) -> None:
    """What pydantic has to say of each of so many errors would fill some hundred MB and take seconds."""
    body = json.dumps(WIDE[name]).encode()
    tracemalloc.start()
    try:
        json.loads(body)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert outcome(body) is None
        assert tracemalloc.get_traced_memory()[1] < 2.5 * read
    finally:
        tracemalloc.stop()


def test_large_request_is_read_like_a_small_one() -> None:
    """All that may be said of as many ads as there may be; JSON that is none is still refused."""
    ids = [f"i{place}" for place in range(2_000)]
    golden = next(request for request in golden_requests() if request.get("items"))
    features = next(item["features"] for item in golden["items"].values() if item and item.get("features"))
    known = {name: None for name in SCHEMA.settable["item"]} | features
    document = golden | {
        "candidates": {"id": ids},
        "items": dict.fromkeys(ids, {"text": "x: y" * 9, "features": known}),
    }
    few = document | {"candidates": {"id": ids[:1]}, "items": {"i0": document["items"]["i0"]}}
    body = json.dumps(document).encode()

    large, small = outcome(body), outcome(json.dumps(few).encode())
    assert large is not None
    assert small is not None
    assert large.ids == ids
    assert large.item_features == dict.fromkeys(ids, small.item_features["i0"])
    for wrong in (body[:-1], body + b"}", body[:-1] + b',"user_id":"u2"}', body.replace(b'"x', b'"\\ud800x', 1)):
        assert outcome(wrong) is None


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ('"user_id": "u", CANDIDATES', "user_id"),
        ('"user_id" : "u", CANDIDATES', "user_id"),
        ('"us\\u0065r_id": "u", CANDIDATES', "user_id"),
        ('"candidates": {"id": ["i1"], "id"\n:["i1"]}', "id"),
        ('CANDIDATES, "context": {"hour": 1, "hour": 1}', "hour"),
        ('CANDIDATES, "context": {"device": "a:b", "device": "a"}', "device"),
        ('CANDIDATES, "items": {"i1": {"text": "x"}, "i1": {"text": "x"}}', "i1"),
        ('CANDIDATES, "items": {"i1": {"features": {"price": 1, "price": 1}}}', "price"),
        ('CANDIDATES, "user": {"history": [], "history": []}', "history"),
    ],
)
def test_rejects_repeated_key(parts: str, key: str) -> None:
    body = '{"user_id": "u", ' + parts.replace("CANDIDATES", '"candidates": {"id": ["i1"]}') + "}"
    with pytest.raises(MalformedRequest, match="a JSON key occurs twice") as refused:
        parse_request(body.encode(), SCHEMA)
    assert refused.value.field == key
