"""Hostile clients as a child process, so that they take no time from the measured load.

`python -m lab.chaos.attackers NAME CONNECTIONS HOST PORT SECONDS` reads a good request's body from stdin, writes an
empty line when it begins, and at its end its requests' statuses as JSON. A connection closed by the service counts as
`closed` and is reopened.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle, islice

from lab.chaos.bad_requests import read_reply
from loadtest.requests import http_request

_PATH = "/v1/score"
_PAUSE_S = 0.05
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
_MEBIBYTE = 2**20
_LONG_MS = "60000"
_MOST = 2_000
_EXPLAINED = 200


class Link:
    """One connection of an attack until `end`; `body` is a good request's."""

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        outcomes: Counter[str],
        body: bytes,
        end: float,
    ) -> None:
        self._reader, self._writer = streams
        self._outcomes, self.body, self._end = outcomes, body, end

    @property
    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self._end

    async def send(self, data: bytes) -> None:
        """Send as fast as the service reads."""
        if self._reader.at_eof():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> None:
        """Read and count one reply."""
        status, _ = await read_reply(self._reader)
        self._outcomes[str(status)] += 1

    async def until_closed(self) -> None:
        """Wait silently for the connection's end."""
        await self._reader.read()
        raise ConnectionResetError

    async def repeat(self, number: int, **more: object) -> None:
        """Send the good request repeatedly with a number of candidates (its own, repeated) and a deadline of a
        minute."""
        document = json.loads(self.body)
        ids = islice(cycle(document["candidates"]["id"]), number)
        body = json.dumps({**document, **more, "candidates": {"id": list(ids)}}).encode()
        request = http_request(_PATH, body, X_Deadline_Ms=_LONG_MS)
        while self.goes_on:
            await self.send(request)
            await self.reply()


async def silent(link: Link) -> None:
    """Never send anything."""
    await link.until_closed()


async def bodies(link: Link) -> None:
    """Send a body of 1 MiB without its last byte."""
    await link.send(_HEAD + b"Content-Length: %d\r\n\r\n" % _MEBIBYTE + b" " * (_MEBIBYTE - 1))
    await link.until_closed()


async def chunks(link: Link) -> None:
    """Send endless chunks of one byte."""
    await link.send(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while link.goes_on:
        await link.send(b"1\r\n \r\n" * 4_096)


async def explain(link: Link) -> None:
    """Request explanations of the maximum number of candidates, repeatedly."""
    await link.repeat(_EXPLAINED, explain=True)


async def long(link: Link) -> None:
    """Request the maximum number of candidates with a deadline of a minute, repeatedly."""
    await link.repeat(_MOST)


async def unknown(link: Link) -> None:
    """Request unknown paths; each may cause a log line."""
    while link.goes_on:
        await link.send(b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nHost: service\r\n\r\n")
        await link.reply()


ATTACKS: dict[str, tuple[int, Callable[[Link], Awaitable[None]]]] = {
    "silent": (2_000, silent),
    "bodies": (400, bodies),
    "chunks": (4, chunks),
    "explain": (4, explain),
    "long": (16, long),
    "unknown": (4, unknown),
}
"""By name: number of connections, and behaviour."""


async def attack(name: str, number: int, place: tuple[str, int], seconds: float, body: bytes) -> Counter[str]:
    """Run an attack on a number of connections, each reopened when it ends; return the outcomes."""
    outcomes, end = Counter[str](), time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            try:
                streams = await asyncio.open_connection(*place)
            except OSError:
                outcomes["refused"] += 1
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                await ATTACKS[name][1](Link(streams, outcomes, body, end))
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                outcomes["closed"] += 1
                await asyncio.sleep(_PAUSE_S)
            finally:
                streams[1].transport.abort()

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(client() for _ in range(number)))
    return outcomes


def main(arguments: list[str]) -> None:
    """Run one attack."""
    name, number, host, port, seconds = arguments
    body = sys.stdin.buffer.read()
    sys.stdout.write("\n")
    sys.stdout.flush()
    outcomes = asyncio.run(attack(name, int(number), (host, int(port)), float(seconds), body))
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
