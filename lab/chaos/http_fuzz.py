"""Sends requests that must be refused over a few connections, and counts the outcomes."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from lab.chaos.hostile import Hostile

_PATIENCE_S = 30.0
_HUNG: Literal["hung"] = "hung"
_CLOSED: Literal["closed"] = "closed"
Came = int | Literal["hung", "closed"]


@dataclass
class FuzzResult:
    """Statuses, `closed` without an answer (for bytes that are not HTTP), or `hung`; and the requests with a wrong
    outcome."""

    came: Counter[Came] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def count(self, hostile: Hostile, came: Came) -> None:
        """Count one; invalid HTTP may have no answer but the connection's end."""
        self.came[came] += 1
        is_refused = 400 <= came < 500 if isinstance(came, int) else came == _CLOSED and not hostile.is_whole
        if not is_refused:
            self.wrong.append(f"{hostile.what}: {came}")


def fuzz(place: tuple[str, int], requests: Iterator[Hostile], number: int, connections: int) -> FuzzResult:
    """Send a number of requests; each connection waits for an answer or its end before the next."""
    result = FuzzResult()
    some = islice(requests, number)

    async def client() -> None:
        link = _Link(place)
        for hostile in some:
            result.count(hostile, await link.ask(hostile))
        await link.close()

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(connections)))

    asyncio.run(all_clients())
    return result


class _Link:
    """A connection that is reopened after each end."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, hostile: Hostile) -> Came:
        """Return the outcome of one request."""
        if not hostile.is_whole:
            await self.close()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._ask(hostile)
        except TimeoutError:
            await self.close()
            return _HUNG
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self.close()
            return _CLOSED

    async def close(self) -> None:
        """Close the connection, if it is open."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    async def _ask(self, hostile: Hostile) -> Came:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        reader, writer = self._reader, self._writer
        writer.write(hostile.request)
        status, head = await read_reply(reader)
        if not hostile.is_whole or b"connection: close" in head:
            await self.close()
        return status


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and lower-case head of the next reply. Raises what the reader does."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split()[0]) if b"content-length:" in head else 0
    await reader.readexactly(length)
    return int(head.split()[1]), head
