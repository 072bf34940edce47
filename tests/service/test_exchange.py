"""Another thread writes as much of a reply as the connection takes, and the loop the rest."""

import asyncio
import logging
import os
import socket
from contextlib import suppress

import pytest
import uvloop
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.exchange import BEGAN, Exchange


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


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_loop_writes_the_rest_of_a_reply(size: int) -> None:
    """A part of the reply, or all of it where the client takes nothing of what was sent before."""

    async def use(ours: socket.socket, theirs: socket.socket) -> None:
        exchange, before = await exchange_over(ours), 0
        with suppress(BlockingIOError):
            while size == 1:
                before += ours.send(b"x")
        body = b"y" * size
        try:
            wire = exchange.wire()
            assert wire is not None
            descriptor, head, tail = wire
            whole = head + tail + body
            try:
                sent = await asyncio.to_thread(os.write, descriptor, whole)
            except BlockingIOError:
                sent = 0
            exchange.sent(whole[sent:], 0.0)
            came = b""
            while len(came) < before + size or not came.endswith(b"y"):
                came += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 1 << 20), 30)
        finally:
            exchange.abandon()
            await asyncio.sleep(0.001)
        assert came[before:] == b"HTTP/1.1 200 OK\r\ndate: now\r\nx-request-id: r1\r\n\r\n" + body

    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        uvloop.run(use(ours, theirs))
