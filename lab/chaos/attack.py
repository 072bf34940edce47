"""Attacks by network clients: other clients are scored meanwhile, and afterwards all is as before.

Each attack is a child process, which takes no time from the measured load: `python -m lab.chaos.attack NAME CONNECTIONS
HOST PORT SECONDS [KEY]` reads a good request's body from stdin, writes an empty line when it begins, and at its end its
requests' outcomes as JSON. A connection closed by the service counts as `closed` and is reopened.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice

from lab.chaos.bad_requests import read_reply
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.run import Run
from lab.chaos.timeline import SCORED, UNANSWERED, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import ProcessError, Running
from loadtest.requests import SCORE, http_request
from msd.process import held

_SHARE = 0.2
_SCORED = 0.95
_CONNECTIONS = 600
_PATIENCE_S = 10.0
_MB = 2**20
_HELD_MB = 128.0
_PAUSE_S = 0.05
_LONG_MS, _CROWD_MS = 60_000, 999
_HEAD = b"POST /v1/score HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"


def attack(run: Run) -> None:
    """One attack after another."""
    with run.service(max_connections=_CONNECTIONS) as service:
        target = run.target(service)
        expected = _scores(target)
        rate = _SHARE * capacity(target, run.plan.capacity_s)
        for place, name in enumerate(ATTACKS):
            run.hear(name, place, len(ATTACKS))
            load, held_mb, requests = _attacked(run, name, service, target, rate)
            run.timeline = run.timeline.then(load.timeline, run.timeline.end_s)
            samples = load.timeline.samples
            scored = count(samples, *SCORED) / max(1, len(samples))
            run.figures |= {f"{name}_requests": requests, f"{name}_others_scored": round(scored, 4)}
            run.figures |= {f"{name}_others_p99_ms": percentile_ms(samples, 99), f"{name}_mb": held_mb}
            run.check(f"{name}: no other request ends in an error", count(samples, "error", "not_ready") == 0)
            run.check(f"{name}: every other request is answered", not count(samples, *UNANSWERED))
            run.check(f"{name}: at least {_SCORED:.0%} of the others are scored", scored >= _SCORED, True)
            run.check(f"{name}: afterwards the scores are as before", _scores(target) == expected)
            if name == "bodies":
                run.check(f"bodies in flight take at most {_HELD_MB:g} MB: {held_mb}", held_mb <= _HELD_MB)


def _attacked(run: Run, name: str, service: Running, target: Target, rate: float) -> tuple[BackgroundLoad, float, int]:
    """Return the load during one attack, the peak of additional memory (MB), and the attack's number of requests."""
    seconds, start = run.plan.attack_s, held(service.pid).memory
    most, (host, port) = start, target.place
    number = max(2, round(ATTACKS[name][0] * run.plan.attackers))
    command = [sys.executable, "-m", "lab.chaos.attack", name, str(number), host, str(port), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        attacker.stdin.write(target.bodies[0])
        attacker.stdin.close()
        attacker.stdout.readline()  # the attack begins
        with BackgroundLoad(target, rate, seconds) as load:
            load.mark(name)
            while load.now_s < seconds:
                most = max(most, held(service.pid).memory)
                time.sleep(0.1)
        outcomes = attacker.stdout.read()
    # An attack that did not happen would pass trivially.
    if attacker.returncode:
        raise ProcessError(f"the attack {name!r} ended with {attacker.returncode}; it was not carried out")
    return load, round((most - start) / _MB, 1), sum(json.loads(outcomes).values())


def _scores(target: Target) -> object:
    """Return the scores of a good request, retrying for a while. Raises ClientError if it gets none."""

    def candidates() -> object:
        with ServiceConnection(target.url) as client:
            return json.loads(client.scored(target.bodies[0]).body)["candidates"]

    return wait_until(f"{target.url}: a good request is scored", candidates, _PATIENCE_S)


@dataclass
class Link:
    """One connection of an attack until `end`; `body` is a good request's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    outcomes: Counter[str]
    body: bytes
    end: float
    key: str = ""
    """An API key; empty if the service needs none."""

    @property
    def head(self) -> bytes:
        """Return the beginning of a scoring request's head."""
        return _HEAD + (b"Authorization: Bearer %b\r\n" % self.key.encode() if self.key else b"")

    @property
    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self.end

    async def send(self, data: bytes) -> None:
        """Send as fast as the service reads."""
        if self.reader.at_eof():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> None:
        """Read and count one reply."""
        status, _ = await read_reply(self.reader)
        self.outcomes[str(status)] += 1

    async def until_closed(self) -> None:
        """Wait silently for the connection's end."""
        await self.reader.read()
        raise ConnectionResetError

    async def repeat(self, number: int, deadline_ms: int = _LONG_MS, **more: object) -> None:
        """Send the good request repeatedly with a number of candidates (its own, repeated)."""
        document = json.loads(self.body)
        ids = islice(cycle(document["candidates"]["id"]), number)
        body = json.dumps({**document, **more, "candidates": {"id": list(ids)}}).encode()
        granted = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = http_request(SCORE, body, X_Deadline_Ms=str(deadline_ms), **granted)
        while self.goes_on:
            await self.send(request)
            await self.reply()


async def _bodies(link: Link) -> None:
    """Send a body of 1 MiB without its last byte."""
    await link.send(link.head + b"Content-Length: %d\r\n\r\n" % _MB + b" " * (_MB - 1))
    await link.until_closed()


async def _chunks(link: Link) -> None:
    """Send endless chunks of one byte."""
    await link.send(link.head + b"Transfer-Encoding: chunked\r\n\r\n")
    while link.goes_on:
        await link.send(b"1\r\n \r\n" * 4_096)


async def _parts(link: Link) -> None:
    """Send bodies of 1 MiB with as many values as fit."""
    body = b'{"user_id": "u", "candidates": {"id": ["i"]}, "context": {"hour": [' + b"[]," * (_MB // 3 - 40) + b"[]]}}"
    while link.goes_on:
        await link.send(http_request(SCORE, body))
        await link.reply()


async def _scrapes(link: Link) -> None:
    """Request metrics many times, and read nothing."""
    await link.send(b"GET /metrics HTTP/1.1\r\nHost: service\r\n\r\n" * 99)
    await link.until_closed()


async def _unknown(link: Link) -> None:
    """Request unknown paths; each may cause a log line."""
    while link.goes_on:
        await link.send(b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nHost: service\r\n\r\n")
        await link.reply()


ATTACKS: dict[str, tuple[int, Callable[[Link], Awaitable[None]]]] = {
    "silent": (2_000, Link.until_closed),
    "bodies": (400, _bodies),
    "chunks": (4, _chunks),
    "explain": (4, lambda link: link.repeat(200, explain=True)),
    "long": (16, lambda link: link.repeat(2_000)),
    "crowd": (64, lambda link: link.repeat(2_000, _CROWD_MS)),
    "parts": (8, _parts),
    "scrapes": (50, _scrapes),
    "unknown": (4, _unknown),
}
"""By name: number of connections, and behaviour."""


async def _attack(
    name: str, number: int, place: tuple[str, int], seconds: float, body: bytes, key: str
) -> Counter[str]:
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
                await ATTACKS[name][1](Link(*streams, outcomes, body, end, key))
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                outcomes["closed"] += 1
                await asyncio.sleep(_PAUSE_S)
            finally:
                streams[1].transport.abort()

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(client() for _ in range(number)))
    return outcomes


if __name__ == "__main__":
    name, number, host, port, seconds, *keys = sys.argv[1:]
    body = sys.stdin.buffer.read()
    sys.stdout.write("\n")
    sys.stdout.flush()
    outcomes = asyncio.run(_attack(name, int(number), (host, int(port)), float(seconds), body, "".join(keys)))
    sys.stdout.write(json.dumps(outcomes))
