"""Hostile clients as child processes, so that they take no time from the measured load.

`python -m lab.chaos.attackers NAME CONNECTIONS HOST PORT SECONDS` reads a good request's body from stdin,
writes an empty line when it begins, and at its end its requests' statuses as JSON. A connection closed by the service
counts as `closed` and is reopened.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle, islice

from lab.chaos.http_fuzz import read_reply
from loadtest.requests import http_request

_PATH = "/v1/score"
_PAUSE_S = 0.05
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
_MEBIBYTE = 2**20
_LONG_MS = "60000"
_MOST = 2_000
_EXPLAINED = 200


class Attackers:
    """A number of connections with the same behaviour until the time is over."""

    def __init__(self, place: tuple[str, int], seconds: float, body: bytes) -> None:
        self.came: Counter[str] = Counter()
        self.body = body
        self._place, self._end = place, time.monotonic() + seconds

    @property
    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self._end

    async def run(self, number: int, act: Callable[["Attackers", "Link"], Awaitable[None]]) -> None:
        """Run `act` on each connection, and again on a new one when it ends."""

        async def one() -> None:
            while self.goes_on:
                try:
                    reader, writer = await asyncio.open_connection(*self._place)
                except OSError:
                    self.came["refused"] += 1
                    await asyncio.sleep(_PAUSE_S)
                    continue
                try:
                    await act(self, Link(self, reader, writer))
                except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    self.came["closed"] += 1
                    await asyncio.sleep(_PAUSE_S)
                finally:
                    writer.transport.abort()

        with suppress(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._end - time.monotonic()):
                await asyncio.gather(*(one() for _ in range(number)))


class Link:
    """One connection of an attack."""

    def __init__(self, attackers: Attackers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._attackers, self._reader, self._writer = attackers, reader, writer

    async def send(self, data: bytes) -> None:
        """Send as fast as the service reads."""
        if self._reader.at_eof():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> None:
        """Read and count one reply."""
        status, _ = await read_reply(self._reader)
        self._attackers.came[str(status)] += 1

    async def until_closed(self) -> None:
        """Wait silently for the connection's end."""
        await self._reader.read()
        raise ConnectionResetError


async def silent(attackers: Attackers, link: Link) -> None:
    """Never send anything."""
    await link.until_closed()


async def bodies(attackers: Attackers, link: Link) -> None:
    """Send a body of 1 MiB without its last byte."""
    await link.send(_HEAD + b"Content-Length: %d\r\n\r\n" % _MEBIBYTE + b" " * (_MEBIBYTE - 1))
    await link.until_closed()


async def chunks(attackers: Attackers, link: Link) -> None:
    """Send endless chunks of one byte."""
    await link.send(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while attackers.goes_on:
        await link.send(b"1\r\n \r\n" * 4_096)


async def extensions(attackers: Attackers, link: Link) -> None:
    """Send one chunk with an endless extension."""
    await link.send(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")
    while attackers.goes_on:
        await link.send(b"x" * 65_536)


async def explain(attackers: Attackers, link: Link) -> None:
    """Request explanations of the maximum number of candidates, repeatedly."""
    await _ask(attackers, link, _EXPLAINED, explain=True)


async def long(attackers: Attackers, link: Link) -> None:
    """Request the maximum number of candidates with a deadline of a minute, repeatedly."""
    await _ask(attackers, link, _MOST)


async def unknown(attackers: Attackers, link: Link) -> None:
    """Request unknown paths; each may cause a log line."""
    while attackers.goes_on:
        await link.send(b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nHost: service\r\n\r\n")
        await link.reply()


ATTACKS: dict[str, tuple[int, Callable[[Attackers, Link], Awaitable[None]]]] = {
    "silent": (2_000, silent),
    "bodies": (400, bodies),
    "chunks": (4, chunks),
    "extensions": (4, extensions),
    "explain": (4, explain),
    "long": (16, long),
    "unknown": (4, unknown),
}
"""By name: number of connections, and behaviour."""


async def _ask(attackers: Attackers, link: Link, number: int, **more: object) -> None:
    """Send the good request repeatedly with a number of candidates (its own, repeated) and a deadline of a minute."""
    document = json.loads(attackers.body)
    ids = islice(cycle(document["candidates"]["id"]), number)
    body = json.dumps({**document, **more, "candidates": {"id": list(ids)}}).encode()
    request = http_request(_PATH, body, X_Deadline_Ms=_LONG_MS)
    while attackers.goes_on:
        await link.send(request)
        await link.reply()


def main(arguments: list[str]) -> None:
    """Run one attack."""
    name, number, host, port, seconds = arguments
    body = sys.stdin.buffer.read()
    sys.stdout.write("\n")
    sys.stdout.flush()
    attackers = Attackers((host, int(port)), float(seconds), body)
    asyncio.run(attackers.run(int(number), ATTACKS[name][1]))
    sys.stdout.write(json.dumps(attackers.came))


if __name__ == "__main__":
    main(sys.argv[1:])
