"""Requests that no service may accept: bodies that are not JSON, not requests, or not for this bundle, and bytes that
are not HTTP. An endless seeded stream. Sends nothing.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from lab.chaos.wrong_documents import Document, wrong_document
from loadtest.requests import SCORE, http_request

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
            what, body = wrong_document(good, path, rng)
            yield Hostile(what, http_request(path, body))
        elif draw < 0.9:
            yield _wrong_body(good, path, rng)
        else:
            yield _wrong_http(good, path, rng)


def _wrong_body(good: Document, path: str, rng: random.Random) -> Hostile:
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
    return Hostile(what, http_request(path, bodies[what]()))


def _wrong_http(good: Document, path: str, rng: random.Random) -> Hostile:
    """Requests with another path or content type, or invalid HTTP."""
    body = json.dumps(good).encode()
    whole: Mapping[str, Callable[[], bytes]] = {
        "another type": lambda: http_request(
            path, body, Content_Type=rng.choice(("text/plain", "application/xml", "x"))
        ),
        "an encoding": lambda: http_request(path, gzip.compress(body), Content_Encoding="gzip"),
        "another path": lambda: http_request(
            rng.choice((f"{path}s", f"{path}/", "/../../etc/passwd", "/%00", "//")), body
        ),
        "another method": lambda: http_request(path, body).replace(
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
