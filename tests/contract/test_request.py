"""Accepted requests. The errors of all others, with their words, are in `tests/service/test_refusals.py`."""

import json
import math
import tracemalloc
from typing import Any

import pytest

from msd.contract.request import (
    ANONYMOUS,
    CheckedRequest,
    MalformedRequest,
    RequestError,
    TooManyCandidates,
    parse_request,
)
from msd.contract.state import Impression
from tests.bundles.factory import golden_requests
from tests.contract.examples import AT, SCHEMA

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}


def clicked(item_id: str, times: float = 1.0) -> Impression:
    """Clicks whose time the request does not tell."""
    return Impression(math.inf, item_id, times, times)


def but(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def columns(**changes: object) -> bytes:
    return but(candidates={**GOOD["candidates"], **changes})


def refusal(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parse_request(body, SCHEMA)
    return raised.value


def test_a_full_request() -> None:
    body = but(
        at=1_764_066_000,
        context={"hour": 13, "temperature": None},
        candidates={"id": ["i1", "new", "i1"], "bid": [0.5, None, 0]},
        user={"features": {"interests": ["cars", 7], "age": 44}, "history": ["i9", "?", "i9"]},
        items={"new": {"text": "a tent", "features": {"category": "games"}}, "i1": {"features": {"price": None}}},
        top_k=2,
        slot=3,
        page=4,
    )

    assert parse_request(body, SCHEMA) == CheckedRequest(
        user_id="u1",
        ids=["i1", "new", "i1"],
        at=AT,
        bids=[0.5, None, 0.0],
        context={"hour": "13", "temperature": None},
        user_features={"interests": ("cars", "7"), "age": 44.0},
        history=[clicked("?"), clicked("i9", 2.0)],
        item_features={"new": {"category": "games"}, "i1": {"price": None}},
        item_texts={"new": "a tent"},
        top_k=2,
        slot=3,
        page=4,
        unknown=("user.features.interests",),
    )


def test_unknown_categories_are_named_once() -> None:
    new = {"features": {"category": "gmaes", "price": 3}}
    body = but(
        context={"hour": "thirteen", "temperature": 3.5},
        user={"features": {"interests": ["cars", "crs"]}},
        items={"i1": new, "i2": new},
    )
    found = parse_request(body, SCHEMA)
    assert found.unknown == ("context.hour", "user.features.interests", "items.features.category")
    assert parse_request(but(context={"hour": None}), SCHEMA).unknown == ()


@pytest.mark.parametrize(
    "changes",
    [
        *({part: None} for part in ("at", "context", "user", "items", "top_k")),
        {"candidates": {"id": ["i1", "i2"], "bid": None}},
        {"user": {"features": None, "history": None}},
        {"user": {}},
        {"user": {"features": {}}},
        {"context": {}},
        {"items": {"i1": None, "no candidate": None}},
        {"items": {"i1": {"text": None, "features": None}}},
        {"items": {"i1": {"text": "", "features": {}}}},
        {"items": {"i1": {"text": " \n\t"}}},
    ],
)
def test_null_or_empty_parts_equal_absence(changes: dict[str, object]) -> None:
    assert parse_request(but(**changes), SCHEMA) == parse_request(but(), SCHEMA)
    assert parse_request(but(user_id=None, **changes), SCHEMA).user_id == ANONYMOUS


def test_number_of_candidates_is_limited() -> None:
    for count in (1, 2_000):
        assert len(parse_request(columns(id=["i1"] * count), SCHEMA).ids) == count
    error = refusal(columns(id=["i1"] * 2_001))
    assert isinstance(error, TooManyCandidates)
    assert (error.code, error.field) == ("too_many_candidates", "candidates.id")
    assert error.message == "2001 candidates; one request may have 2000: split it"
    with pytest.raises(TooManyCandidates, match="one request may have 1"):
        parse_request(but(), SCHEMA, max_candidates=1)


def test_repeated_key_among_many_is_found_in_one_pass() -> None:
    """With as many names as a body can hold, comparing each with each would take minutes of processor time."""
    names = b",".join(b'"%x":1' % number for number in range(100_000))
    body = b'{"user_id": "u", "candidates": {"id": ["i"]}, "context": {"hour": {' + names + b',"z":1,"z":2}}}'

    assert refusal(body).field == "z"


LONGEST = [f"i{number}" for number in range(1_000)]
ODD: dict[str, tuple[bytes, str, object]] = {
    "empty history": (but(user={"history": []}), "history", []),
    "longest id": (but(user_id="u" * 256), "user_id", "u" * 256),
    "emoji": (but(user_id="😀\n"), "user_id", "😀\n"),
    "duplicates": (columns(id=["i1", "i1"]), "ids", ["i1", "i1"]),
    "whole numbers": (columns(bid=[1, 0]), "bids", [1.0, 0.0]),
    "no bids": (columns(bid=[None, None]), "bids", [None, None]),
    "at zero": (but(at=0), "at", 0.0),
    "top_k beyond": (but(top_k=10**30), "top_k", 10**30),
    "longest history": (but(user={"history": LONGEST}), "history", [*map(clicked, LONGEST)]),
    "history beyond": (but(user={"history": [*["?"] * 50_000, *LONGEST]}), "history", [*map(clicked, LONGEST)]),
    "history of one item": (but(user={"history": ["i1"] * 50_000}), "history", [clicked("i1", 1_000.0)]),
    "history of both forms": (
        but(
            user={
                "history": [
                    {"item_id": "i1", "clicked": True, "at": 5},
                    "i2",
                    {"clicked": False, "item_id": "i1", "at": 3.5},
                    {"item_id": "i3", "clicked": False, "at": None},
                    {"item_id": "i2", "clicked": False, "at": 9},
                ]
            }
        ),
        "history",
        [Impression(5.0, "i1", 2.0, 1.0), Impression(math.inf, "i3", 1.0, 0.0), Impression(math.inf, "i2", 2.0, 1.0)],
    ),
    "longest bag": (but(user={"features": {"interests": LONGEST}}), "user_features", {"interests": tuple(LONGEST)}),
    "longest text": (but(items={"i1": {"text": "x" * 10_000}}), "item_texts", {"i1": "x" * 10_000}),
    "extreme": (but(context={"temperature": -1e308}), "context", {"temperature": -1e308}),
}


@pytest.mark.parametrize("name", ODD)
def test_accepts_unusual_request(name: str) -> None:
    body, part, value = ODD[name]

    assert getattr(parse_request(body, SCHEMA), part) == value


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
        refusal(body)
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

    large, small = (parse_request(sent, SCHEMA) for sent in (body, json.dumps(few).encode()))
    assert large.ids == ids
    assert large.item_features == dict.fromkeys(ids, small.item_features["i0"])
    for wrong in (body[:-1], body + b"}", body[:-1] + b',"user_id":"u2"}', body.replace(b'"x', b'"\\ud800x', 1)):
        refusal(wrong)


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
