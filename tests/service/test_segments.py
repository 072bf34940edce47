"""However a network cuts the bytes of requests, the replies are the same, and no byte of a body is another."""

import asyncio
import fcntl
import json
import re
import socket
import struct
import termios
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from service import limits
from service.http.access import AccessMiddleware
from service.http.body import read_body
from service.http.bridge import Bridge
from service.http.server import front_of
from service.scoring.engine import ScoringEngine
from service.settings import Settings
from service.telemetry.metrics import Metrics

SETTINGS = Settings(bundle=Path("b"), max_body_bytes=1_024)
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
OFFERS = [b"", OFFER, OFFER.replace(b"Upgrade:", b"uPgRaDe:"), OFFER.upper()]
# What a reader of lines could take for a header or the end of a head.
_WORDS = [
    b"Upgrade: h2c",
    b"Upgrade:7",
    b"\r\nUpgrade: x\r\n",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"0\r\n\r\n",
    b"\r",
    b"",
]
BODIES = st.lists(st.sampled_from(_WORDS) | st.binary(max_size=4), max_size=5)


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Wait for bodies however slow the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "BODY_TIMEOUT_S", 60.0)
        yield


class Sent(NamedTuple):
    """One request: its bytes, and the body that they carry."""

    wire: bytes
    body: bytes


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, SETTINGS)
    seen = [scope["method"], scope["path"], body.hex(), sorted(name.decode() for name, _ in scope["headers"])]
    reply = json.dumps(seen).encode() + b"\n"
    headers = [(b"content-length", b"%d" % len(reply))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """A request with a body, by length or in chunks that begin anywhere; with an offer of HTTP/2, or without."""
    pieces = draw(BODIES)
    body = b"".join(pieces)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\n"
    head += draw(st.sampled_from(OFFERS))
    if draw(st.booleans()):
        return Sent(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body)
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    trailer = draw(st.sampled_from([b"", b"Upgrade: h2c\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n"]))
    return Sent(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n", body)


def unread(connection: socket.socket) -> int:
    """Bytes that the other end has not read."""
    count: int = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]
    return count


def replies(pieces: list[bytes], busy_s: float = 0.0) -> bytes:
    """All that a connection says to pieces that come one by one, after which its client says no more. The event loop
    does something else for so long after each."""

    async def go(ours: socket.socket, theirs: socket.socket) -> bytes:
        loop, metrics = asyncio.get_running_loop(), Metrics()
        app = AccessMiddleware(echo, metrics)
        front = front_of(SETTINGS, ScoringEngine(metrics, 1).native)
        bridge = Bridge(front, app, None)
        bridge.open()
        front.start(-1)
        front.adopt(ours.detach(), False)
        try:
            for piece in pieces:
                try:
                    await loop.sock_sendall(theirs, piece)
                except ConnectionError:
                    break
                time.sleep(busy_s)
                # Each is read by itself, until nothing is read any more.
                for _ in range(1_000):
                    if not unread(theirs):
                        break
                    await asyncio.sleep(0)
            theirs.shutdown(socket.SHUT_WR)
            stream = b""
            while came := await loop.sock_recv(theirs, 65_536):
                stream += came
            return re.sub(rb"date: [^\r]+", b"date: now", stream)
        finally:
            bridge.close()
            front.stop()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        return uvloop.run(asyncio.wait_for(go(ours, theirs), 120))


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(whole), *(place % len(whole) for place in places)})
    return [whole[start:end] for start, end in pairwise(ends)]


ENDS = [
    b"",
    b"GET /partly HTTP/1.1\r\nHo",
    b"nonsense\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
]
_OFFERED = b"POST /p HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\n" + OFFER + b"Content-Length: 2\r\n\r\nab"


@settings(max_examples=60)
@given(
    sent=st.lists(requests(), min_size=1, max_size=4),
    end=st.sampled_from(ENDS),
    places=st.lists(st.integers(0, 2_000), max_size=12),
)
@example(sent=[Sent(_OFFERED, b"ab")] * 3, end=b"", places=list(range(500)))
@example(sent=[Sent(_OFFERED, b"ab")], end=ENDS[3], places=list(range(500)))
def test_cut_changes_nothing(sent: list[Sent], end: bytes, places: list[int]) -> None:
    whole = b"".join(request.wire for request in sent) + end
    stream = replies(cut(whole, places))

    assert stream == replies([whole])
    seen = [json.loads(part.splitlines()[0]) for part in stream.split(b"\r\n\r\n") if part.startswith(b"[")]
    assert [bytes.fromhex(echoed[2]) for echoed in seen] == [request.body for request in sent]
    assert all("upgrade" not in echoed[3] for echoed in seen)
    assert stream.count(b"HTTP/1.1 400 ") == (end in ENDS[2:])


def test_body_over_limit_is_refused_though_its_end_has_come_too() -> None:
    """The front tells of what exceeds the limit and of the end apart; a busy loop hears both at once."""
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b" " * (SETTINGS.max_body_bytes + 1)
    stream = replies([head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)], busy_s=0.05)
    assert stream.startswith(b"HTTP/1.1 413 ")
