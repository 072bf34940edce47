"""`python -m tests.native.soak`: holds the native core against the corpus, and against the reference over as many drawn
requests as are asked for, and its reader of HTTP against llhttp over as many heads with their bodies. With a core built
by `python -m native.build --sanitise`, a wrong access or undefined behaviour ends it."""

import argparse
import json
import re
import select
import socket
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httptools

import native
from service.http.server import front_of
from service.scoring.engine import ScoringEngine
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.native import corpus
from tests.native.comparison import Pair
from tests.native.observed import CoreOfWorld
from tests.native.test_infer import compare
from tests.native.worlds import draw_world

_REQUESTS_A_WORLD = 60
_END_S = 60.0
_FIRST_LINES = (
    b"GET / HTTP/1.1|POST /p?q=1 HTTP/1.1|POST /p HTTP/1.1|GET http://h/p HTTP/1.1|GET * HTTP/1.1|get / HTTP/1.1|"
    b"GET  / HTTP/1.1|GET / HTTP/1.0|GET /\x80 HTTP/1.1|GET /#f HTTP/1.1|FOO / HTTP/1.1|GET / HTTP/1.1 |"
    b"GET / http/1.1|GET / HTTP/01.1|PUT /a%20b HTTP/1.1|GET http://[::1]:8/p HTTP/1.1|GET http://a^b@c/p HTTP/1.1"
).split(b"|")
_HEADERS = (
    b"Host: x|host: y|Content-Length: 3|Content-Length: 0|content-length:  3 |Content-Length: +3|Content-Length: 3, 3|"
    b"Transfer-Encoding: chunked|Transfer-Encoding: gzip|Connection: close|Connection: keep-alive, Upgrade|"
    b"Upgrade: h2c|Expect: 100-continue|X: \x80\xff|X:|X : y| folded|\tz|A: b\x00|A: b\x7f|X-\xc3: y|(: y|A:b|A: \t b\t"
).split(b"|")
_CHUNKS = b"3\r\nabc|3;e=1\r\nabc|03\r\nabc|3 \r\nabc|0x3\r\nabc".split(b"|")
_ENDS = [b"\r\n0\r\n\r\n", b"\r\n0\r\nT: u\r\n\r\n"]
_BODIES = [b"", b"abc", *(chunk + end for chunk in _CHUNKS for end in _ENDS)]
Read = tuple[bytes, list[tuple[bytes, bytes]], bytes]
"""A request's target, headers and body."""


def soak(requests: int, seed: int) -> dict[str, int]:
    """How many requests came to each outcome, beside as many of tensors. Raises AssertionError at the first
    difference."""
    outcomes: Counter[native.core.FillResult] = Counter()
    while outcomes.total() < requests:
        random = Random(seed)
        with TemporaryDirectory() as folder:
            world = draw_world(random, Path(folder))
            for is_file in (True, False):
                pair = Pair(CoreOfWorld(world, random, is_file))
                for _ in range(_REQUESTS_A_WORLD):
                    outcomes[pair.compare(random)] += 1
                    compare(random, world)
        seed += 1
    return {outcome.name.lower(): outcomes[outcome] for outcome in native.core.FillResult}


def soak_heads(heads: int, seed: int) -> dict[str, int]:
    """How many requests were accepted, and refused by the front alone or by llhttp too. Raises AssertionError if the
    front accepts what llhttp refuses or reads otherwise."""
    outcomes, random = Counter[str](), Random(seed)
    engine = ScoringEngine(Metrics(), 1)
    front = front_of(Settings(bundle=Path("unread")), engine.native)
    front.start(-1)
    for _ in range(heads):
        stream = draw_stream(random)
        ours, theirs = read_by(front, stream), Llhttp(stream)
        assert ours is None or theirs.upgrades or ours == theirs.first, stream
        outcomes["accepted" if ours else "refused alone" if theirs.first else "refused"] += 1
    front.stop()
    engine.close()
    return dict(outcomes)


def draw_stream(random: Random) -> bytes:
    """A head and a body, of which some bytes may be changed."""
    lines = [b"Host: x", *random.choices(_HEADERS, k=random.randrange(4))]
    random.shuffle(lines)
    first = random.choice(_FIRST_LINES[: None if random.random() < 0.4 else 3])
    stream = bytearray(b"\r\n".join([first, *lines]) + b"\r\n\r\n" + random.choice(_BODIES))
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        place = random.randrange(len(stream))
        match random.randrange(4):
            case 0:
                stream[place] = random.randrange(256)
            case 1:
                del stream[place]
            case 2:
                stream.insert(place, random.choice(b"\r\n \t:;,\x00\x0b0aZ"))
            case _:
                stream[place:place] = stream[place : place + random.randrange(1, 8)]
    return bytes(stream)


def read_by(front: "native.core.Front", stream: bytes) -> Read | None:
    """What the front reads as the first request of a connection; None if it does not accept a whole one."""
    client, adopted = socket.socketpair()
    front.adopt(adopted.detach(), False)
    found: Read | None = None
    target, headers, body = b"", [], b""
    with client:
        client.sendall(stream)
        client.shutdown(socket.SHUT_WR)
        ends: list[socket.socket | int] = [client, front.descriptor]
        while True:
            ready, _, _ = select.select(ends, [], [], _END_S)
            assert ready, stream
            if client in ready and not received(client):
                return found
            for event in front.take_events():
                if isinstance(event, native.core.HandedRequest):
                    target, headers, body = event.target, event.headers, b""
                elif isinstance(event, native.core.HandedBody):
                    body += event.bytes
                    if event.is_last:
                        found = found or (target, headers, body)
                        front.reply(event.number, b"", True, True)


def received(client: socket.socket) -> bytes:
    try:
        return client.recv(65_536)
    except ConnectionError:
        return b""


class Llhttp:
    """The first request that llhttp reads from a stream, if there is a whole one; `upgrades`: it asks for another
    protocol, so that llhttp reads no body."""

    def __init__(self, stream: bytes) -> None:
        self.first: Read | None = None
        self.upgrades, self._is_in_head = False, True
        self._target, self._body = b"", b""
        self._headers: list[tuple[bytes, bytes]] = []
        try:
            httptools.HttpRequestParser(self).feed_data(stream)
        except httptools.HttpParserUpgrade:
            self.upgrades = True
        except httptools.HttpParserError:  # what follows the first does not matter
            pass

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head and name.lower() != b"upgrade":  # that and trailers are left out by the front
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._is_in_head = False

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        target = re.sub(rb"^https?://[^/]+", b"", self._target)
        self.first = self.first or (target, self._headers, self._body)


def main() -> None:
    """Soaks, and prints JSON of what the core did with the requests."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--requests", type=int, default=100_000)
    options.add_argument("--heads", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    if native.core is None:
        raise SystemExit(f"there is no native core: {native.REASON}")
    started = time.monotonic()
    known = corpus.known_digests()
    for entry in corpus.entries():
        assert entry.observed.digest() == known[entry.number], entry.observed.body
    outcomes = soak(given.requests, given.seed)
    result = {
        "core": native.core.__file__,
        "instructions": native.core.INSTRUCTIONS,
        "corpus": len(known),
        "requests": sum(outcomes.values()),
        **outcomes,
        "heads": soak_heads(given.heads, given.seed),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
