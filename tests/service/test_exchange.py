"""A scoring thread writes a reply at once, and never after its connection's end."""

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.exchange import BEGAN, Exchange, Headers

REPLY: tuple[int, Headers, bytes] = (200, [(b"content-length", b"2")], b"ok")
WHOLE = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\nx-request-id: r1\r\n\r\nok"
_ROUNDS = 300


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def exchange_over(connection: socket.socket) -> Exchange:
    """One request over a connection of the running loop."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, connection)
    logger = logging.getLogger("nobody")
    cycle = RequestResponseCycle(
        scope={"type": "http", BEGAN: 0.0, "headers": [(b"x-request-id", b"r1")]},  # type: ignore[misc]
        transport=transport,
        flow=FlowControl(transport),
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    return Exchange(cycle)


def over_pair(use: Callable[[socket.socket, Exchange], Awaitable[None]]) -> None:
    """Run something with a client's end of a connection, and a request that came over it."""

    async def go(ours: socket.socket, theirs: socket.socket) -> None:
        exchange = await exchange_over(ours)
        try:
            await use(theirs, exchange)
        finally:
            exchange.abandon()
            theirs.close()
            await asyncio.sleep(0.001)

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    uvloop.run(go(ours, theirs))


def taken(connection: socket.socket) -> bytes:
    """What has come by now."""
    came = b""
    while True:
        try:
            came += (piece := connection.recv(1 << 20))
        except BlockingIOError:
            return came
        if not piece:
            return came


def test_thread_writes_at_once_and_the_loop_nothing_more() -> None:
    async def use(theirs: socket.socket, exchange: Exchange) -> None:
        await asyncio.to_thread(exchange.send, *REPLY[1:])
        assert taken(theirs) == WHOLE
        exchange.reply(*REPLY)
        await asyncio.sleep(0.01)
        assert taken(theirs) == b""

    over_pair(use)


@pytest.mark.usefixtures("quick_switches")
def test_no_thread_writes_after_the_end() -> None:
    """The descriptor may be another connection's from then on. A reply that was begun before is whole."""
    before_end = 0

    async def use(theirs: socket.socket, exchange: Exchange) -> None:
        nonlocal before_end
        both = threading.Barrier(2)

        def write() -> None:
            both.wait()
            exchange.send(*REPLY[1:])

        thread = threading.Thread(target=write)
        thread.start()
        both.wait()
        # A little later each time, so that either may come first.
        end_at = time.perf_counter() + place * 1e-6
        while time.perf_counter() < end_at:
            pass
        exchange.end()
        came = taken(theirs)
        thread.join()
        assert came in (b"", WHOLE)
        assert taken(theirs) == b""
        before_end += came == WHOLE

    for place in range(_ROUNDS):  # noqa: B007 - `use` reads it
        over_pair(use)
    # Both came first at times, or it would show nothing.
    assert 0 < before_end < _ROUNDS
