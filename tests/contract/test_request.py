"""Accepted requests, and the code, message and field of the error for all others."""

import json
import math
from typing import Any

import pytest

from msd.contract.request import (
    ANONYMOUS,
    CheckedRequest,
    InvalidRequest,
    MalformedRequest,
    RequestError,
    TooManyCandidates,
    parse_request,
)
from msd.contract.state import Impression
from tests.contract.examples import AT, SCHEMA

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}
NOT_UNICODE = "should be a valid string, unable to parse raw data as a unicode string"


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


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    "cut": (but()[:-2], "the body is not JSON: Expecting ',' delimiter: line 1 column 52 (char 51)"),
    "two": (but() + b"{}", "the body is not JSON: Extra data: line 1 column 54 (char 53)"),
    "not utf-8": (b'{"user_id": "\xff"}', "the body is not UTF-8 (byte 13)"),
    "mark of byte order": (b"\xef\xbb\xbf" + but(), "the body is not JSON: Unexpected UTF-8 BOM"),
    "nan": (b'{"at": NaN}', "NaN is not JSON"),
    "infinity": (b'{"at": Infinity}', "Infinity is not JSON"),
    "minus infinity": (b'{"at": [-Infinity]}', "-Infinity is not JSON"),
    "nested": (b"[" * 19_000, "the body is nested too deeply"),
    "digits": (b'{"top_k": ' + b"9" * 5_000 + b"}", "the body contains a number with too many digits"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_rejects_malformed_body(name: str) -> None:
    body, message = MALFORMED[name]
    error = refusal(body)

    assert isinstance(error, MalformedRequest)
    assert (error.code, error.field) == ("malformed", None)
    assert str(error) == error.message
    assert error.message.startswith(message)


def test_repeated_key_among_many_is_found_in_one_pass() -> None:
    """With as many names as a body can hold, comparing each with each would take minutes of processor time."""
    names = b",".join(b'"%x":1' % number for number in range(100_000))
    body = b'{"user_id": "u", "candidates": {"id": ["i"]}, "context": {"hour": {' + names + b',"z":1,"z":2}}}'

    assert refusal(body).field == "z"


NUMBER = "should be a valid number"
OF_USER = "no feature of the user"
STRING = "should be a valid string"
CATEGORY = "should be a string or a whole number"
LONG_ID = "should have at most 256 characters"


def shown(**changes: object) -> bytes:
    return but(user={"history": ["i1", {"item_id": "i1", "clicked": False, "at": 3, **changes}]})


INVALID: dict[str, tuple[bytes, str | None, str]] = {
    "null": (b"null", None, "should be an object"),
    "list": (b"[]", None, "should be an object"),
    "no user": (json.dumps({"candidates": {"id": ["i1"]}}).encode(), "user_id", "is missing"),
    "no candidates": (b'{"user_id": "u1"}', "candidates", "is missing"),
    "unknown key": (but(users=1), "users", "is not known here"),
    "a key that is half a surrogate pair": (but(**{"\ud800": 1}), None, NOT_UNICODE),
    "user a number": (but(user_id=1), "user_id", STRING),
    "user empty": (but(user_id=""), "user_id", "should have at least 1 character"),
    "user long": (but(user_id="u" * 257), "user_id", LONG_ID),
    "user with NUL": (but(user_id="a\0b"), "user_id", "should match pattern"),
    "user half a surrogate pair": (but(user_id="\udfff"), "user_id", NOT_UNICODE),
    "candidates null": (but(candidates=None), "candidates", "should be an object"),
    "candidates a list": (but(candidates=["i1"]), "candidates", "should be an object"),
    "no id": (but(candidates={}), "candidates.id", "is missing"),
    "no ids": (columns(id=[]), "candidates.id", "should have at least 1 item"),
    "id a string": (columns(id="i1"), "candidates.id", "should be a valid list"),
    "candidate false": (columns(id=["i1", False]), "candidates.id.1", STRING),
    "candidate null": (columns(id=["i1", None]), "candidates.id.1", STRING),
    "candidate empty": (columns(id=["", "i1"]), "candidates.id.0", "should have at least 1 character"),
    "candidate long": (columns(id=["i" * 257]), "candidates.id.0", LONG_ID),
    "unknown column": (columns(bids=[1, 1]), "candidates.bids", "is not known here"),
    "too few bids": (columns(bid=[1]), "candidates.bid", "has 1 entries, and candidates.id has 2"),
    "bid a number": (columns(bid=1), "candidates.bid", "should be a valid list"),
    "bid negative": (columns(bid=[1, -0.01]), "candidates.bid.1", "should be greater than or equal to 0"),
    "bid too high": (columns(bid=[1, 1.1e9]), "candidates.bid.1", "should be less than or equal to 1000000000"),
    "bid false": (columns(bid=[False, 1]), "candidates.bid.0", NUMBER),
    "bid in words": (columns(bid=["1", 1]), "candidates.bid.0", NUMBER),
    "bid 1e999": (columns(bid=[1, 7]).replace(b"7", b"1e999"), "candidates.bid.1", "should be a finite number"),
    "at false": (but(at=False), "at", NUMBER),
    "at in words": (but(at="now"), "at", NUMBER),
    "at negative": (but(at=-1), "at", "should be greater than or equal to 0"),
    "at in milliseconds": (but(at=AT * 1_000), "at", "should be less than or equal to 100000000000"),
    "at huge": (but(at=10**400), "at", NUMBER),
    "top_k 0": (but(top_k=0), "top_k", "should be greater than or equal to 1"),
    "top_k true": (but(top_k=True), "top_k", "should be a valid integer"),
    "top_k fraction": (but(top_k=1.0), "top_k", "should be a valid integer"),
    "slot 0": (but(slot=0), "slot", "should be a whole number from 1, the first place of the page, to 255"),
    "slot far down": (but(slot=256), "slot", "should be a whole number from 1"),
    "slot in words": (but(slot="top"), "slot", "should be a whole number from 1"),
    "slot fraction": (but(slot=1.0), "slot", "should be a whole number from 1"),
    "page 0": (but(page=0), "page", "should be a whole number of places, from 1 to 32"),
    "page in words": (but(page="top"), "page", "should be a whole number of places"),
    "page of too many": (but(page=33), "page", "should be a whole number of places"),
    "page true": (but(page=True), "page", "should be a whole number of places"),
    "page behind the last place": (but(page=3, slot=254), "page", "ends behind place 255, the last: it begins at slot"),
    "context a list": (but(context=[]), "context", "should be an object"),
    "unknown context": (
        but(context={"hours": 1}),
        "context.hours",
        "no feature of the context has this name; there are: hour, device, temperature",
    ),
    "a serving constant": (but(context={"position": "2"}), "context.position", "no feature of the context"),
    "hour false": (but(context={"hour": False}), "context.hour", CATEGORY),
    "hour long": (but(context={"hour": "1" * 257}), "context.hour", LONG_ID),
    "temperature huge": (but(context={"temperature": 10**400}), "context.temperature", "should be a finite number"),
    "a long name": (but(context={"n" * 99: 1}), f"context.{'n' * 60}…", "no feature of the context"),
    "user a list": (but(user=[]), "user", "should be an object"),
    "unknown part of user": (but(user={"counts": 1}), "user.counts", "is not known here"),
    "user's id": (but(user={"features": {"user_id": "u"}}), "user.features.user_id", OF_USER),
    "user's counts": (but(user={"features": {"user_counts": 1}}), "user.features.user_counts", OF_USER),
    "an item's feature": (but(user={"features": {"price": 1}}), "user.features.price", OF_USER),
    "bag in words": (but(user={"features": {"interests": "a"}}), "user.features.interests", "should be a list of"),
    "history in words": (but(user={"history": "i1"}), "user.history", "should be a valid list"),
    "history with null": (but(user={"history": ["i1", None]}), "user.history.1", STRING),
    "history with a number": (but(user={"history": [{"item_id": "i1", "clicked": True}, 1]}), "user.history.1", STRING),
    "history of a list": (but(user={"history": [["i1"]]}), "user.history.0", STRING),
    "item shown without a name": (but(user={"history": [{"clicked": True}]}), "user.history.0.item_id", "is missing"),
    "too many items shown": (
        but(user={"history": ["i1", *[{"item_id": "i1", "clicked": True}] * 1_001]}),
        "user.history",
        "has 1001 objects; 1000 are allowed",
    ),
    "far too many items shown": (
        but(user={"history": [{"item_id": "i1", "clicked": True}] * 3_000}),
        "user.history",
        "has 3000 objects; 1000 are allowed",
    ),
    "item shown, empty": (shown(item_id=""), "user.history.1.item_id", "should have at least 1 character"),
    "item shown, long": (shown(item_id="i" * 257), "user.history.1.item_id", LONG_ID),
    "item shown, NUL": (shown(item_id="i\0"), "user.history.1.item_id", "should match pattern"),
    "item shown, half a pair": (shown(item_id="\ud83d"), "user.history.1.item_id", NOT_UNICODE),
    "item shown without an outcome": (
        but(user={"history": [{"item_id": "i1"}]}),
        "user.history.0.clicked",
        "is missing",
    ),
    "item shown, clicked once": (shown(clicked=1), "user.history.1.clicked", "should be a valid boolean"),
    "item shown, clicked null": (shown(clicked=None), "user.history.1.clicked", "should be a valid boolean"),
    "item shown before 1970": (shown(at=-1), "user.history.1.at", "should be greater than or equal to 0"),
    "item shown, in milliseconds": (
        shown(at=1_764_066_000_000),
        "user.history.1.at",
        "should be less than or equal to",
    ),
    "item shown, time in words": (shown(at="now"), "user.history.1.at", "should be a valid number"),
    "item shown with more": (shown(price=3), "user.history.1.price", "is not known here"),
    "item named like a variant": (but(items={"[id]": 1}), "items.[id]", "should be an object"),
    "item's bag of too many": (
        but(items={"i1": {"features": {"genres": [1] * 1_001}}}),
        "items.i1.features.genres",
        "has 1001 values; a list may have 1000",
    ),
    "items a list": (but(items=[]), "items", "should be an object"),
    "item empty": (but(items={"": {}}), "items.", "should have at least 1 character"),
    "item long": (but(items={"i" * 257: {}}), f"items.{'i' * 60}…", LONG_ID),
    "item no candidate": (but(items={"i9": {}}), "items.i9", "describes an item that is not a candidate"),
    "more items than candidates": (
        but(items={"i1": None, "i2": None, "i3": None}),
        "items",
        "has 3 entries, more than there are candidates (2)",
    ),
    "unknown part of item": (but(items={"i1": {"title": "a"}}), "items.i1.title", "is not known here"),
    "text a number": (but(items={"i1": {"text": 1}}), "items.i1.text", STRING),
    "text half a surrogate pair": (but(items={"i1": {"text": "a \ud83d"}}), "items.i1.text", NOT_UNICODE),
    "text long": (but(items={"i1": {"text": "x" * 10_001}}), "items.i1.text", "should have at most 10000"),
    "unknown feature": (but(items={"i1": {"features": {"size": 1}}}), "items.i1.features.size", "no feature of the i"),
    "price true": (but(items={"i1": {"features": {"price": True}}}), "items.i1.features.price", "should be a number"),
}


@pytest.mark.parametrize("name", INVALID)
def test_rejects_invalid_request(name: str) -> None:
    body, field, message = INVALID[name]
    error = refusal(body)

    assert isinstance(error, InvalidRequest)
    assert (error.code, error.field) == ("invalid", field)
    assert error.message.startswith(message)
    assert len(error.message) < 400


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
