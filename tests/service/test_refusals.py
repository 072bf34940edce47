"""Scoring requests that are refused, over HTTP: the code, the field and the words of each error."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.bundles.factory import AT
from tests.service.live import LiveService
from tests.service.wire import GOOD, but, error_of

NOT_UNICODE = "should be a valid string, unable to parse raw data as a unicode string"


@pytest.fixture(scope="module")
def client(service: LiveService) -> Iterator[httpx.Client]:
    """One kept connection: it outlives every bad request."""
    with service.client(headers={"Content-Type": "application/json"}) as kept:
        yield kept


def columns(**changes: object) -> bytes:
    return but(candidates={**GOOD["candidates"], **changes})


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
    "a key twice": (b'{"user_id": "u1", "user_id": "u2", "candidates": {"id": ["i1"]}}', "a JSON key occurs twice"),
    "half a surrogate pair twice": (b'{"\\ud800": 1, "\\ud800": 2}', "a JSON key occurs twice"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_rejects_malformed_body(client: httpx.Client, name: str) -> None:
    body, message = MALFORMED[name]
    error = error_of(client.post("/v1/score", content=body), 400)

    assert error["code"] == "malformed"
    assert error["message"].startswith(message)


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
    "unknown context, half a surrogate pair": (
        but(context={"\ud800": 1}),
        "context.\\ud800",
        "no feature of the context",
    ),
    "category huge": (but(context={"hour": 10**30}), "context.hour", "should be a whole number of 64 bits"),
}


@pytest.mark.parametrize("name", INVALID)
def test_rejects_invalid_request(client: httpx.Client, name: str) -> None:
    body, field, message = INVALID[name]
    error = error_of(client.post("/v1/score", content=body), 422)

    assert (error["code"], error["field"]) == ("invalid", field)
    assert error["message"].startswith(message)
