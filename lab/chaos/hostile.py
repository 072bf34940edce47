"""Requests that no service may accept: good documents with one invalid part, bodies that are not JSON, and bytes that
are not HTTP. An endless seeded stream. Sends nothing.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from loadtest.requests import IMPRESSION, OPENRTB, SCORE, http_request

Document = dict[str, Any]
Spoiler = Callable[[Document, random.Random], object]
_NOT_IDS: tuple[Any, ...] = (None, 5, 1.5, True, [], {}, "", "x" * 10_000, "a\u0000b", ["u1"], {"id": "u1"})
_NOT_LISTS: tuple[Any, ...] = (None, 5, "i1", {}, True, {"id": []})
_NOT_BIDS: tuple[Any, ...] = ("1", -0.01, True, 1e10, [1.0], {}, float("nan"), float("inf"), -float("inf"))
_NOT_TIMES: tuple[Any, ...] = ("2026-01-01", True, -1, 1e300, [], {}, float("nan"), 1_764_066_000_000)
_NOT_COUNTS: tuple[Any, ...] = (0, -1, 1.5, "3", True, [], float("nan"))
_NOT_OBJECTS: tuple[Any, ...] = ([], "x", 5, True)
_NOT_HISTORIES: tuple[Any, ...] = ("i1", [None], [5], [""], [{}], [{"item_id": "i1", "clicked": 1}], {}, True)
_NOT_TEXTS: tuple[Any, ...] = (5, True, [], {}, "x" * 10_001)
_ODD_NAMES = ("", "__proto__", "user_ids", "Context", "\u202e", "\ud800", "a" * 3_000, "candidates ", "$where")
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"


class Hostile(NamedTuple):
    """A request's bytes. `is_whole`: it is valid HTTP, so its connection may be reused."""

    what: str
    request: bytes
    is_whole: bool = True


def hostile_requests(good: Document, seed: int, path: str = SCORE) -> Iterator[Hostile]:
    """Yield requests that each differ from `good`, a body that the route at `path` accepts, in an invalid way."""
    rng = random.Random(seed)
    while True:
        draw = rng.random()
        if draw < 0.55:
            what, spoil = rng.choice(list(_FAULTS[path].items()))
            document = json.loads(json.dumps(good))
            spoil(document, rng)
            yield Hostile(what, http_request(path, json.dumps(document).encode("utf-8", "surrogatepass")))
        else:
            yield (_wrong_body if draw < 0.9 else _wrong_http)(good, path, rng)


def _put(values: tuple[Any, ...], *paths: str) -> Spoiler:
    """Replace the part at one of the paths by one of the values."""

    def spoil(document: Document, rng: random.Random) -> None:
        *way, last = rng.choice(paths).split(".")
        place: Any = document
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = rng.choice(values)

    return spoil


def _update(make: Callable[[random.Random], Document]) -> Spoiler:
    """Add or replace parts."""
    return lambda document, rng: document.update(make(rng))


def _an_id(document: Document, rng: random.Random) -> None:
    ids = document["candidates"]["id"]
    ids[rng.randrange(len(ids))] = rng.choice(_NOT_IDS)


def _a_bid(document: Document, rng: random.Random) -> None:
    bids: list[Any] = [1.0] * len(document["candidates"]["id"])
    bids[rng.randrange(len(bids))] = rng.choice(_NOT_BIDS)
    document["candidates"]["bid"] = bids


def _bids_of_another_length(document: Document, rng: random.Random) -> None:
    document["candidates"]["bid"] = [1.0] * (len(document["candidates"]["id"]) + rng.choice((-1, 1, 7)))


def _unknown_key(document: Document, rng: random.Random) -> None:
    place = rng.choice([document, *([document["candidates"]] if "candidates" in document else [])])
    place[rng.choice(_ODD_NAMES)] = rng.choice((1, None, "x", [], {}))


def _unknown_feature(document: Document, rng: random.Random) -> None:
    wrong, first = {rng.choice(_ODD_NAMES): 1}, document["candidates"]["id"][0]
    users = ({"context": wrong}, {"user": {"features": wrong}}, {"user": wrong})
    document.update(rng.choice((*users, {"items": {first: {"features": wrong}}}, {"items": {first: wrong}})))


def _text(document: Document, rng: random.Random) -> None:
    document["items"] = {document["candidates"]["id"][0]: {"text": rng.choice(_NOT_TEXTS)}}


def _of_an_impression(spoil: Spoiler) -> Spoiler:
    """Apply what spoils the candidates of /v1/score to those of an impression."""

    def go(document: Document, rng: random.Random) -> None:
        part = {"candidates": document["candidates"][IMPRESSION]}
        spoil(part, rng)
        document["candidates"][IMPRESSION] = part["candidates"]

    return go


def _too_many_together(document: Document, rng: random.Random) -> None:
    document["request"]["imp"].append({"id": "2"})
    document["candidates"] = {imp: {"id": ["i1"] * rng.randint(1_001, 2_000)} for imp in (IMPRESSION, "2")}


def _an_impression_twice(document: Document, rng: random.Random) -> None:
    document["request"]["imp"] += [{"id": IMPRESSION}] * rng.randint(1, 9)


def _unknown_impression(document: Document, rng: random.Random) -> None:
    document["candidates"] |= {rng.choice(("9", "imp.1", "../1", "x" * 100)): {"id": ["i1"]}}


def _too_many_values(document: Document, rng: random.Random) -> None:
    document["request"]["ext"] = [{}] * rng.randint(20_001, 60_000)


_CANDIDATES: Mapping[str, Spoiler] = {
    "invalid candidate ID": _an_id,
    "too many candidates": _update(lambda rng: {"candidates": {"id": ["i1"] * rng.randint(2_001, 4_000)}}),
    "invalid bid": _a_bid,
    "bids of another length": _bids_of_another_length,
}
_BOTH: Mapping[str, Spoiler] = {
    "invalid time": _put(_NOT_TIMES, "at"),
    "invalid top_k": _put(_NOT_COUNTS, "top_k"),
    "unknown key": _unknown_key,
}
_FAULTS: Mapping[str, Mapping[str, Spoiler]] = {
    SCORE: {
        **_BOTH,
        **_CANDIDATES,
        "invalid user ID": _put(_NOT_IDS[1:], "user_id"),
        "no user ID": lambda document, rng: document.pop("user_id"),
        "invalid history": _put(tuple({"history": history} for history in _NOT_HISTORIES), "user"),
        "candidates of another type": _put((*_NOT_OBJECTS, None, {}), "candidates"),
        "IDs of another type": _put((*_NOT_LISTS, []), "candidates.id"),
        "part of another type": _put(_NOT_OBJECTS, "context", "user", "items"),
        "item that is not a candidate": _put(({"not among them": {}},), "items"),
        "unknown feature": _unknown_feature,
        "invalid text": _text,
    },
    OPENRTB: {
        **_BOTH,
        **{f"{name} of an impression": _of_an_impression(spoil) for name, spoil in _CANDIDATES.items()},
        "request of another type": _put((*_NOT_OBJECTS, None, {}), "request"),
        "invalid request ID": _put((None, True, [], {}, "", "x" * 10_000), "request.id", "request.imp.0.id"),
        "impressions of another type": _put((*_NOT_LISTS, [], [[]], [None], [{}]), "request.imp"),
        "invalid user ID": _put((True, [], {}, "x" * 10_000, "a\u0000b"), "request.user.buyeruid"),
        "candidates of another type": _put((*_NOT_OBJECTS, None, {}), "candidates", f"candidates.{IMPRESSION}"),
        "IDs of another type": _put((*_NOT_LISTS, []), f"candidates.{IMPRESSION}.id"),
        "unknown key of an impression": _of_an_impression(
            lambda part, rng: part["candidates"].update({rng.choice(_ODD_NAMES): 1})
        ),
        "many impressions": _update(
            lambda rng: {"candidates": {str(number): {"id": ["i1"]} for number in range(rng.randint(33, 3_000))}}
        ),
        "too many candidates together": _too_many_together,
        "impression twice": _an_impression_twice,
        "unknown impression": _unknown_impression,
        "too many values": _too_many_values,
    },
}


def _wrong_body(good: Document, path: str, rng: random.Random) -> Hostile:
    """Return bytes that are not a JSON document."""
    text = json.dumps(good).encode()
    place = rng.randrange(1, len(text))
    bodies: Mapping[str, Callable[[], bytes]] = {
        "truncated": lambda: text[:place],
        "without its start": lambda: text[place:],
        "empty": lambda: b"",
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
        "compressed": lambda: gzip.compress(text),
        "single quotes": lambda: text.replace(b'"', b"'"),
        "a bomb": lambda: gzip.compress(b"0" * 2**20),
    }
    what = rng.choice(list(bodies))
    return Hostile(what, http_request(path, bodies[what]()))


def _wrong_http(good: Document, path: str, rng: random.Random) -> Hostile:
    """Return a request with another path or content type, or invalid HTTP."""
    body = json.dumps(good).encode()
    types, lengths = ("text/plain", "application/xml", "x"), (b"-1", b"x", b"1e3", b"99999999999999999999", b"0x10")
    paths, methods = (f"{path}s", f"{path}/", "/../../etc/passwd", "/%00", "//"), (b"PUT", b"DELETE", b"PATCH")
    whole: Mapping[str, Callable[[], bytes]] = {
        "another content type": lambda: http_request(path, body, Content_Type=rng.choice(types)),
        "an encoding": lambda: http_request(path, gzip.compress(body), Content_Encoding="gzip"),
        "another path": lambda: http_request(rng.choice(paths), body),
        "another method": lambda: http_request(path, body).replace(b"POST", rng.choice(methods), 1),
    }
    broken: Mapping[str, Callable[[], bytes]] = {
        "noise": lambda: rng.randbytes(rng.randint(10, 2_000)) + b"\r\n\r\n",
        "TLS": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        "HTTP/2": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(20),
        "invalid length": lambda: _with_length(body, rng.choice(lengths)),
        "two lengths": lambda: _with_length(body, b"5\r\nContent-Length: %d" % len(body)),
        "length and chunks": lambda: _with_length(body, b"%d\r\nTransfer-Encoding: chunked" % len(body)),
        "invalid chunk": lambda: _in_chunks(b"zz\r\n" + body),
        "chunk too long": lambda: _in_chunks(b"ffffffffffffffff\r\n" + body),
        "head without end": lambda: b"POST /v1/score HTTP/1.1\r\n" + b"X-%d: y\r\n" % rng.randrange(9) * 8_000,
        "long path": lambda: b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: service\r\n\r\n",
        "invalid header": lambda: b"POST /v1/score HTTP/1.1\r\nHost service\r\n\r\n",
        "invalid version": lambda: b"POST /v1/score HTTP/9.9\r\nHost: service\r\n\r\n",
        "too much": lambda: _with_length(b"", b"%d" % 2**31),
    }
    what = rng.choice([*whole, *broken])
    return Hostile(what, whole[what]()) if what in whole else Hostile(what, broken[what](), is_whole=False)


def _with_length(body: bytes, length: bytes) -> bytes:
    return _HEAD + b"Content-Length: " + length + b"\r\n\r\n" + body


def _in_chunks(chunks: bytes) -> bytes:
    return _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
