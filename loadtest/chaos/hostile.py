"""Requests that no service may score: bodies that are not JSON, not requests, or not for this bundle, and bytes that
are not HTTP. An endless seeded stream. Sends nothing.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from loadtest.requests import http_request

Document = dict[str, Any]
_PATH = "/v1/score"
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
_NOT_IDS: tuple[Any, ...] = (None, 5, 1.5, True, [], {}, "", "x" * 10_000, "a\u0000b", ["u1"], {"id": "u1"})
_NOT_LISTS: tuple[Any, ...] = (None, 5, "i1", {}, True, {"id": []})
_NOT_BIDS: tuple[Any, ...] = ("1", -0.01, True, 1e10, [1.0], {}, float("nan"), float("inf"), -float("inf"))
_NOT_TIMES: tuple[Any, ...] = ("2026-01-01", True, -1, 1e300, [], {}, float("nan"), 1_764_066_000_000)
_NOT_COUNTS: tuple[Any, ...] = (0, -1, 1.5, "3", True, [], float("nan"))
_NOT_OBJECTS: tuple[Any, ...] = ([], "x", 5, True)
_NOT_HISTORIES: tuple[Any, ...] = ("i1", [None], [5], [""], {}, True)
_NOT_TEXTS: tuple[Any, ...] = (5, True, [], {}, "x" * 10_001)
_ODD_NAMES = ("", "__proto__", "user_ids", "Context", "\u202e", "\ud800", "a" * 3_000, "candidates ", "$where")


class Hostile(NamedTuple):
    """A request's bytes. `is_whole`: it is valid HTTP, so its connection may be reused."""

    what: str
    request: bytes
    is_whole: bool = True


def hostile_requests(good: Document, seed: int) -> Iterator[Hostile]:
    """Yield requests that each differ from `good`, a body that is scored, in an invalid way."""
    rng = random.Random(seed)
    while True:
        draw = rng.random()
        if draw < 0.55:
            yield _wrong_document(good, rng)
        elif draw < 0.9:
            yield _wrong_body(good, rng)
        else:
            yield _wrong_http(good, rng)


def _wrong_document(good: Document, rng: random.Random) -> Hostile:
    """JSON with one invalid part."""
    name = rng.choice([*_WRONG_VALUES, *_SPOILERS])
    document = json.loads(json.dumps(good))
    if name in _SPOILERS:
        _SPOILERS[name](document, rng)
    else:
        *way, last = rng.choice(_WRONG_VALUES[name][0]).split(".")
        place = document[way[0]] if way else document
        place[last] = rng.choice(_WRONG_VALUES[name][1])
    return Hostile(name, http_request(_PATH, json.dumps(document).encode("utf-8", "surrogatepass")))


# Kind of error → the possible parts, and their values.
_WRONG_VALUES: Mapping[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "a user id that is none": (("user_id",), tuple(one for one in _NOT_IDS if one is not None)),
    "candidates that are none": (("candidates",), (*_NOT_OBJECTS, None, {})),
    "ids that are no list": (("candidates.id",), (*_NOT_LISTS, [])),
    "a time that is none": (("at",), _NOT_TIMES),
    "a top_k that is none": (("top_k",), _NOT_COUNTS),
    "a part that is no object": (("context", "user", "items"), _NOT_OBJECTS),
    "a history that is none": (("user",), tuple({"history": one} for one in _NOT_HISTORIES)),
    "an item that is no candidate": (("items",), ({"not among them": {}},)),
}


def _an_id(document: Document, rng: random.Random) -> None:
    ids = document["candidates"]["id"]
    ids[rng.randrange(len(ids))] = rng.choice(_NOT_IDS)


def _too_many(document: Document, rng: random.Random) -> None:
    document["candidates"] = {"id": ["i1"] * rng.randint(2_001, 4_000)}


def _a_bid(document: Document, rng: random.Random) -> None:
    bids: list[Any] = [1.0] * len(document["candidates"]["id"])
    bids[rng.randrange(len(bids))] = rng.choice(_NOT_BIDS)
    document["candidates"]["bid"] = bids


def _bids_of_another_length(document: Document, rng: random.Random) -> None:
    document["candidates"]["bid"] = [1.0] * (len(document["candidates"]["id"]) + rng.choice((-1, 1, 7)))


def _unknown_key(document: Document, rng: random.Random) -> None:
    place = rng.choice((document, document["candidates"]))
    place[rng.choice(_ODD_NAMES)] = rng.choice((1, None, "x", [], {}))


def _unknown_feature(document: Document, rng: random.Random) -> None:
    wrong, first = {rng.choice(_ODD_NAMES): 1}, document["candidates"]["id"][0]
    parts = ({"context": wrong}, {"user": {"features": wrong}}, {"user": wrong})
    document.update(rng.choice((*parts, {"items": {first: {"features": wrong}}}, {"items": {first: wrong}})))


_SPOILERS: Mapping[str, Callable[[Document, random.Random], object]] = {
    "no user id": lambda document, rng: document.pop("user_id"),
    "an id that is none": _an_id,
    "too many candidates": _too_many,
    "a bid that is none": _a_bid,
    "bids of another length": _bids_of_another_length,
    "an unknown key": _unknown_key,
    "an unknown feature": _unknown_feature,
    "a text that is none": lambda document, rng: document.update(
        items={document["candidates"]["id"][0]: {"text": rng.choice(_NOT_TEXTS)}}
    ),
}


def _wrong_body(good: Document, rng: random.Random) -> Hostile:
    """Bytes that are not a JSON document."""
    text = json.dumps(good).encode()
    place = rng.randrange(1, len(text))
    bodies: Mapping[str, Callable[[], bytes]] = {
        "cut off": lambda: text[:place],
        "begun late": lambda: text[place:],
        "nothing": lambda: b"",
        "noise": lambda: rng.randbytes(rng.randint(1, 500)),
        "noise in the middle": lambda: text[:place] + b"\xff\xfe\x00" + text[place:],
        "twice": lambda: text + text,
        "a key twice": lambda: b'{"user_id": "u1",' + text[1:],
        "more after it": lambda: text + b"}",
        "a comma too many": lambda: text[:-1] + b",}",
        "comments": lambda: b"/* " + text + b" */",
        "deep lists": lambda: b"[" * rng.randint(1_000, 100_000),
        "deep objects": lambda: b'{"a":' * rng.randint(1_000, 50_000),
        "UTF-16": lambda: json.dumps(good).encode("utf-16"),
        "a huge number": lambda: b'{"user_id": "u1", "at": ' + b"9" * rng.randint(400, 50_000) + b"}",
        "another type": lambda: json.dumps(rng.choice([None, True, 5, "x", [], [good]])).encode(),
        "packed": lambda: gzip.compress(text),
        "single quotes": lambda: text.replace(b'"', b"'"),
        "a bomb": lambda: gzip.compress(b"0" * 2**20),
    }
    what = rng.choice(list(bodies))
    return Hostile(what, http_request(_PATH, bodies[what]()))


def _wrong_http(good: Document, rng: random.Random) -> Hostile:
    """Requests with another path or content type, or invalid HTTP."""
    body = json.dumps(good).encode()
    whole: Mapping[str, Callable[[], bytes]] = {
        "another type": lambda: http_request(
            _PATH, body, Content_Type=rng.choice(("text/plain", "application/xml", "x"))
        ),
        "an encoding": lambda: http_request(_PATH, gzip.compress(body), Content_Encoding="gzip"),
        "another path": lambda: http_request(
            rng.choice(("/v1/scores", "/v1/score/", "/../../etc/passwd", "/%00", "//")), body
        ),
        "another method": lambda: http_request(_PATH, body).replace(
            b"POST", rng.choice((b"PUT", b"DELETE", b"PATCH")), 1
        ),
    }
    broken: Mapping[str, Callable[[], bytes]] = {
        "noise": lambda: rng.randbytes(rng.randint(10, 2_000)) + b"\r\n\r\n",
        "TLS": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        "HTTP/2": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(20),
        "a length that is none": lambda: _with_length(
            body, rng.choice((b"-1", b"x", b"1e3", b"99999999999999999999", b"0x10"))
        ),
        "two lengths": lambda: _with_length(body, b"5\r\nContent-Length: %d" % len(body)),
        "length and chunks": lambda: _with_length(body, b"%d\r\nTransfer-Encoding: chunked" % len(body)),
        "a chunk that is none": lambda: _in_chunks(b"zz\r\n" + body),
        "a chunk too long": lambda: _in_chunks(b"ffffffffffffffff\r\n" + body),
        "a head without end": lambda: b"POST /v1/score HTTP/1.1\r\n" + b"X-%d: y\r\n" % rng.randrange(9) * 8_000,
        "a long path": lambda: b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: service\r\n\r\n",
        "a header that is none": lambda: b"POST /v1/score HTTP/1.1\r\nHost service\r\n\r\n",
        "a version that is none": lambda: b"POST /v1/score HTTP/9.9\r\nHost: service\r\n\r\n",
        "too much": lambda: _with_length(b"", b"%d" % 2**31),
    }
    what = rng.choice([*whole, *broken])
    return Hostile(what, whole[what]()) if what in whole else Hostile(what, broken[what](), is_whole=False)


def _with_length(body: bytes, length: bytes) -> bytes:
    return _HEAD + b"Content-Length: " + length + b"\r\n\r\n" + body


def _in_chunks(chunks: bytes) -> bytes:
    return _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
