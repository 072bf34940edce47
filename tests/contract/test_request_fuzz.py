"""Whatever bytes arrive, the answer is a request or a RequestError, never another error."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.request import CheckedRequest, RequestError, parse_request
from tests.bundles.factory import golden_requests
from tests.contract.examples import SCHEMA


def outcome(body: bytes) -> CheckedRequest | None:
    """The request, or None when it is refused in the proper way; anything else fails the test."""
    try:
        return parse_request(body, SCHEMA)
    except RequestError as refused:
        said = (refused.code, bool(refused.message), refused.field)
    assert said[0] in ("malformed", "invalid", "too_many_candidates")
    assert said[1]
    assert said[2] != ""
    return None


TEXT = st.text(st.characters(), max_size=8)  # halves of surrogate pairs among them
WORDS = TEXT | st.sampled_from(["user_id", "candidates", "id", "bid", "items", "i1", "features", "age", "hour", "text"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_refused_in_the_proper_way(body: bytes) -> None:
    assert outcome(body) is None


@settings(max_examples=300)
@given(JSON)
def test_any_json_is_refused_in_the_proper_way(document: object) -> None:
    assert outcome(json.dumps(document).encode()) is None


@settings(max_examples=400)
@given(st.data())
def test_a_request_with_anything_anywhere_is_scored_or_refused(data: st.DataObject) -> None:
    """One place of a good request, at any depth, holds any JSON."""
    document = data.draw(st.sampled_from(golden_requests()[:4]))
    text = json.dumps(document)
    places = [place for place in places_of(document) if place]
    place = data.draw(st.sampled_from(places))
    changed = json.loads(text)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = data.draw(JSON)

    request = outcome(json.dumps(changed).encode())
    assert request is None or len(request.ids) == len(changed["candidates"]["id"])


def places_of(value: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all parts of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, part in parts for inner in places_of(part, (*place, key)))]


def keys(count: int) -> dict[str, object]:
    """An object of so many keys."""
    return {f"k{place}": 1 for place in range(count)}


WIDE: dict[str, dict[str, object]] = {
    "keys": keys(90_000),
    "columns": {"user_id": "u1", "candidates": keys(90_000)},
    "ids that are numbers": {"user_id": "u1", "candidates": {"id": [1] * 300_000}},
    "bids below 0": {"user_id": "u1", "candidates": {"id": ["i1"], "bid": [-1] * 300_000}},
    "items that are numbers": {"user_id": "u1", "candidates": {"id": ["i1"]}, "items": keys(80_000)},
    "items of which nothing is said": {
        "user_id": "u1",
        "candidates": {"id": ["i1"]},
        "items": dict.fromkeys(keys(60_000)),
    },
    "features": {"user_id": "u1", "candidates": {"id": ["i1"]}, "context": keys(90_000)},
    "features of the user": {"user_id": "u1", "candidates": {"id": ["i1"]}, "user": {"features": keys(90_000)}},
    "features of an item": {"user_id": "u1", "candidates": {"id": ["i1"]}, "items": {"i1": {"features": keys(90_000)}}},
    "a history of numbers": {"user_id": "u1", "candidates": {"id": ["i1"]}, "user": {"history": [1] * 300_000}},
}


@pytest.mark.parametrize("name", WIDE)
def test_much_that_is_wrong_costs_no_more_than_to_read_it(name: str) -> None:
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


def test_a_large_request_is_read_as_a_small_one_is() -> None:
    """All that may be said of as many ads as there may be; JSON that is none is still refused."""
    ids = [f"i{place}" for place in range(2_000)]
    golden = next(one for one in golden_requests() if one.get("items"))
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
