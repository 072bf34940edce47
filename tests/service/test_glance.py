"""What is told of a request by its bytes is what the parser tells of it; whatever could be doubted is not told of."""

from collections.abc import Sequence

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.glance import Glance, Glancer

GLANCER = Glancer("/v1/score")
_LINE = b"POST /v1/score HTTP/1.1\r\n"
_PIECES = [
    b"Host: x\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Length: 2\r\n",
    b"content-length:2\r\n",
    b"Content-Length: 02\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length : 2\r\n",
    b"Content-Length: 2, 2\r\n",
    b"Content-Length: 2 \r\n",
    b"Content-Length: 3\r\n",
    b"X-Request-Id: mine\r\n",
    b"X-Deadline-Ms: 7\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b" folded\r\n",
    b"Bare: a\nContent-Length: 9\r\n",
    b"Null: \x00\r\n",
    b"Empty:\r\n",
    b"\r\n",
]
_BODIES = [b"", b"{}", b"{}\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"{}POST /v1/score HTTP/1.1\r\n\r\n"]


class Parsed:
    """What the service's parser makes of some bytes: whole requests with their headers and bodies."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self.begun = self.ended = 0
        self.is_kept = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.begun += 1
        self.requests.append(([], b""))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.requests[-1][0].append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        headers, before = self.requests[-1]
        self.requests[-1] = headers, before + body

    def on_message_complete(self) -> None:
        self.ended += 1
        self.is_kept = self._parser.should_keep_alive()


@given(st.lists(st.sampled_from(_PIECES), max_size=6), st.sampled_from(_BODIES) | st.binary(max_size=4))
@example([b"Content-Length: 2\r\n", b"Connection: keep-alive\r\n", b"X-Deadline-Ms: 7\r\n"], b"{}")
def test_it_tells_what_the_parser_tells(pieces: Sequence[bytes], body: bytes) -> None:
    data = _LINE + b"".join(pieces) + b"\r\n" + body
    glance = GLANCER.look(data)
    if glance is None:
        return
    parsed = Parsed(data)
    assert (parsed.begun, parsed.ended, parsed.is_kept) == (1, 1, True)
    headers, read = parsed.requests[0]
    assert len(read) == glance.size
    told = {b"x-request-id", b"x-deadline-ms"}
    assert glance.headers == [(name, value) for name, value in headers if name in told]
    unusual = {b"transfer-encoding", b"expect", b"upgrade"}
    assert not unusual & {name for name, _ in headers}


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"B-", b":", b" ", b"\t", b"\x00", b"\xff"])).map(b"".join)
)
def test_of_any_bytes_that_are_told_of_there_is_one_whole_request(some: bytes) -> None:
    data = _LINE + b"Content-Length: 2\r\nA: b" + some + b"\r\n\r\n{}"
    if GLANCER.look(data) is not None:
        parsed = Parsed(data)
        assert (parsed.begun, parsed.ended) == (1, 1)


def test_the_usual_request_is_told_of() -> None:
    head = b"Host: x:1\r\nUser-Agent: a (b; c)\r\nConnection: Keep-Alive\r\nx-request-id: a b\r\nX-DEADLINE-MS: 20\r\n"
    found = GLANCER.look(_LINE + head + b"Content-Length: 2\r\n\r\n{}")
    assert found == Glance([(b"x-request-id", b"a b"), (b"x-deadline-ms", b"20")], 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        _LINE,
        _LINE + b"Content-Length: 2\r\n\r\n{",
        _LINE + b"Content-Length: 2\r\n\r\n{} ",
        _LINE + b"Host: x\r\n\r\n",
        _LINE + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
        _LINE + b"Content-Length: 2\r\nLong: " + b"x" * 3_000 + b"\r\n\r\n{}",
        b"POST /v1/score?x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/score HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/score HTTP/1.10\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v1/score HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"\r\n" + _LINE + b"Content-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_not_surely_one_whole_request_is_not_told_of(data: bytes) -> None:
    assert GLANCER.look(data) is None
