"""Requests that are refused before they are parsed: read as the parser reads them, and answered as it would be."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httptools
import pytest
import uvicorn
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Scope
from uvicorn.server import ServerState

from msd.contract.bundle import Bundle
from service.errors import ErrorResponse, Overloaded
from service.http.entry import Entry
from service.http.exchange import Exchange
from service.http.glance import whole_request
from service.http.protocol import BoundedProtocol
from service.telemetry.metrics import Metrics
from tests.service.live import LiveService, live_service, wait_until
from tests.service.missed import Missed, again_if_missed
from tests.service.test_fast_route import HUNDRED, JSON, Reply, connect, post, replies
from tests.service.test_segments import SETTINGS, echo

FIRST = b"POST /v1/score HTTP/1.1\r\n"
_CLIENTS = {
    "httpx": b"Host: ads:8080\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"User-Agent: python-httpx/0.28.1\r\nContent-Type: application/json\r\n",
    "go": b"Host: ads:8080\r\nUser-Agent: Go-http-client/1.1\r\nContent-Type: application/json\r\n"
    b"X-Deadline-Ms: 30\r\nAccept-Encoding: gzip\r\n",
    "proxy": b"host: ads\r\ncontent-type: application/json; charset=utf-8\r\nauthorization: Bearer k\r\n"
    b"x-request-id: 7\r\ntraceparent: 00-0-1-00\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nVia: 1.1 proxy\r\n",
}
_LINES = [
    *(b"Host: x", b"HOST:y", b"host : x", b"Host", b"Host:", b" Host: x", b"Hos\tt: x", b"Host: x\r", b"Host: \xe9"),
    *(
        b"Content-Length: 2",
        b"content-length:\t2 ",
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
        b"Content-Length: 02",
    ),
    *(
        b"Content-Length: 3",
        b"Content-Length: 0x2",
        b"Content-Length: \xb2",
        b"Content-Length:",
        b"Content-Length: 2 2",
    ),
    *(b"Content-Length: 2 2", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: h2c", b"Accept: \x00"),
    *(b"Connection: upgrade", b"Connection: keep-alive", b"Connection: Keep-Alive", b"Connection: close"),
    *(
        b"Connection: keep-alive, close",
        b"User-Agent: a:b",
        b"User-Agent: a\nb",
        b"Accept: */*\r\n folded",
        b"X-Other: 1",
        b"",
        b":",
        b"Accept\x0b: x",
    ),
]


class Parsed:
    """What the parser says of bytes."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = self.body = b""
        self.ended = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)
        self.line = self.parser.get_method(), self.url, self.parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """The end of a request."""
        self.ended += 1


@settings(deadline=None, max_examples=300)
@given(
    lines=st.lists(st.sampled_from(_LINES), max_size=5),
    body=st.sampled_from([b"", b"{}", b"{}\r", b"{}GET / HTTP/1.1\r\n", b"\r\n\r\n"]),
    more=st.tuples(st.integers(0, 200), st.binary(max_size=2)),
)
@example(lines=[b"Host: x", b"Content-Length: 2"], body=b"{}", more=(0, b""))
def test_what_is_read_without_the_parser_is_the_same_to_it(
    lines: list[bytes], body: bytes, more: tuple[int, bytes]
) -> None:
    data = FIRST + b"".join(line + b"\r\n" for line in [b"Host: x", *lines]) + b"\r\n" + body
    for whole in (data, data.replace(b"Host: x\r\n", b"", 1), data[: more[0]] + more[1] + data[more[0] :]):
        if (found := whole_request(whole, FIRST, 65_536)) is None:
            continue
        parsed = Parsed(whole)
        assert parsed.ended == 1
        assert parsed.line == (b"POST", b"/v1/score", "1.1")
        assert parsed.parser.should_keep_alive()
        assert not parsed.parser.should_upgrade()
        assert (parsed.headers, len(parsed.body)) == found


@pytest.mark.parametrize("client", _CLIENTS)
def test_what_clients_send_is_read(client: str) -> None:
    head = FIRST + _CLIENTS[client] + b"Content-Length: 2\r\n\r\n"
    headers, size = whole_request(head + b"{}", FIRST, 65_536) or ([], 0)
    assert (len(headers), size) == (_CLIENTS[client].count(b"\r\n") + 1, 2)
    for other in (head + b"{", head + b"{} ", (head + b"{}") * 2, head.replace(b"/v1/score", b"/v1/other") + b"{}"):
        assert whole_request(other, FIRST, 65_536) is None
    assert whole_request(head + b"{}", FIRST, len(head) - 1) is None


class Busy:
    """A shortcut that leaves everything to the app, but refuses what is whole while it has too much to do."""

    refuses = True

    def takes(self, scope: Scope) -> bool:
        """Nothing."""
        return False

    def begin(self, exchange: Exchange, give_up: Callable[[], None]) -> None:
        """Is not asked to."""
        raise AssertionError

    def refusal(self, data: bytes) -> ErrorResponse | None:
        """Of what is whole."""
        return ErrorResponse(Overloaded("too much")) if whole_request(data, FIRST, 65_536) else None


def over_connection(use: Callable[[BoundedProtocol, Busy, Callable[[bytes], Awaitable[int]]], Awaitable[None]]) -> None:
    """Runs something with a connection that waits for its second request, and what sends one and tells its status."""

    async def go(ours: socket.socket, theirs: socket.socket) -> None:
        loop, busy = asyncio.get_running_loop(), Busy()
        factory = Entry(SETTINGS, Metrics()).protocol(busy)
        config = uvicorn.Config(echo, http=factory, ws="none", log_config=None)  # type: ignore[arg-type]
        _, protocol = await loop.connect_accepted_socket(
            lambda: factory(config=config, server_state=ServerState(), app_state={}), ours
        )

        async def status(request: bytes) -> int:
            await loop.sock_sendall(theirs, request)
            return int((await loop.sock_recv(theirs, 65_536)).split()[1])

        assert await status(post(b"{}", JSON)) == 200
        await use(protocol, busy, status)
        protocol.transport.close()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        uvloop.run(go(ours, theirs))


def test_a_kept_connection_is_refused_unparsed_and_goes_on() -> None:
    async def use(protocol: BoundedProtocol, busy: Busy, status: Callable[[bytes], Awaitable[int]]) -> None:
        cycle = protocol.cycle
        for _ in range(3):
            armed = protocol.timeout_keep_alive_task
            assert await status(post(b"{}", JSON)) == 429
            assert protocol.is_idle
            assert protocol.timeout_keep_alive_task is not armed
        assert protocol.cycle is cycle
        # In an unusual form, it is the parser's.
        assert await status(post(b"{}", JSON, b"X-Other: 1\r\n")) == 200
        busy.refuses = False
        assert await status(post(b"{}", JSON)) == 200

    over_connection(use)


def test_nothing_is_refused_unparsed_when_connections_are_to_end_or_replies_are_not_read() -> None:
    async def use(protocol: BoundedProtocol, busy: Busy, status: Callable[[bytes], Awaitable[int]]) -> None:
        protocol.flow.pause_writing()
        seen = protocol.cycle
        protocol.data_received(post(b"{}", JSON))
        assert protocol.cycle is not seen
        protocol.flow.resume_writing()
        protocol.server_state.default_headers = [(b"connection", b"close")]

    over_connection(use)


@pytest.fixture(scope="module")
def slow(slow_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Runs of some tenths of a second."""
    with live_service(slow_bundle.folder, tmp_path_factory.mktemp("slow"), deadline_ms=60_000, workers=1) as running:
        yield running


def asked(connection: socket.socket, *headers: bytes) -> Reply:
    """One request over a kept connection, that has to be answered within 2 ms."""
    connection.sendall(post(HUNDRED, JSON, b"X-Deadline-Ms: 2\r\n", *headers))
    came = b""
    while not (found := replies(came)):
        assert (piece := connection.recv(65_536)), "the service has closed the connection"
        came += piece
    return found[0]


@again_if_missed
def test_an_overloaded_service_refuses_in_the_same_words_either_way(slow: LiveService) -> None:
    counters = 'msd_requests_total{code="429"}', 'msd_shed_total{reason="wait"}', "msd_shed_unparsed_total"
    with ThreadPoolExecutor(1) as pool, connect(slow) as connection:
        assert slow.score(json.loads(HUNDRED)).status_code == 200  # from here on it is known what a run takes
        before = [slow.metric(one) for one in counters]
        scoring = pool.submit(slow.score, json.loads(HUNDRED))
        wait_until(lambda: slow.metric("msd_queued_rows") > 0 or scoring.done())
        # The first is parsed, as the connection is new, and the last for its form.
        parsed, *unparsed, unusual = (
            asked(connection),
            asked(connection),
            asked(connection),
            asked(connection, b"X-A: 1\r\n"),
        )
        if scoring.done() or {one.status for one in (parsed, *unparsed, unusual)} != {429}:
            raise Missed
        for one in (*unparsed, unusual):
            assert (one.status, one.headers) == (parsed.status, parsed.headers)
            assert json.loads(one.body)["error"]["code"] == "overloaded"
        assert [slow.metric(one) - was for one, was in zip(counters, before, strict=True)] == [4, 4, 2]
        assert scoring.result().status_code == 200
        connection.sendall(post(HUNDRED, JSON))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
