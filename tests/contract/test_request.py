"""Accepted requests. The errors of all others, with their words, are in `tests/service/test_refusals.py`."""

import json
import tracemalloc
from typing import Any

import pytest

from msd.contract.request import (
    MalformedRequest,
    RequestError,
    TooManyCandidates,
    parse_request,
)
from tests.contract.examples import SCHEMA

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}


def but(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def columns(**changes: object) -> bytes:
    return but(candidates={**GOOD["candidates"], **changes})


def refusal(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parse_request(body, SCHEMA)
    return raised.value


def test_number_of_candidates_is_limited() -> None:
    for count in (1, 2_000):
        assert len(parse_request(columns(id=["i1"] * count), SCHEMA).candidates.id) == count
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
ODD: dict[str, bytes] = {
    "no user": but(user_id=None),
    "null parts": but(at=None, context=None, user=None, items=None, top_k=None),
    "empty parts": but(context={}, user={}, items={"i1": {"text": " ", "features": {}}, "no candidate": None}),
    "empty history": but(user={"history": []}),
    "longest id": but(user_id="u" * 256),
    "emoji": but(user_id="😀\n"),
    "duplicates": columns(id=["i1", "i1"]),
    "whole numbers": columns(bid=[1, 0]),
    "no bids": columns(bid=[None, None]),
    "at zero": but(at=0),
    "top_k beyond": but(top_k=10**30),
    "longest history": but(user={"history": LONGEST}),
    "history beyond": but(user={"history": [*["?"] * 50_000, *LONGEST]}),
    "history of one item": but(user={"history": ["i1"] * 50_000}),
    "longest bag": but(user={"features": {"interests": LONGEST}}),
    "longest text": but(items={"i1": {"text": "x" * 10_000}}),
    "extreme": but(context={"temperature": -1e308}),
}


@pytest.mark.parametrize("name", ODD)
def test_accepts_unusual_request(name: str) -> None:
    assert parse_request(ODD[name], SCHEMA).model_dump(exclude_unset=True) == json.loads(ODD[name])


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
