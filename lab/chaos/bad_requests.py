"""Tens of thousands of invalid requests: each is refused, none is scored, none causes a failure."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice

from lab.chaos.bundles import mapped_bundle
from lab.chaos.hostile import Hostile, hostile_requests
from lab.chaos.run import Run
from loadtest.http_client import ServiceConnection
from loadtest.requests import IMPRESSION, OPENRTB, SCORE, as_bid_request
from msd.contract.bundle import open_bundle

_LIMITS = {"HEAD_TIMEOUT_S": 4.0, "BODY_TIMEOUT_S": 4.0}
_TURNS = 10
# Many of them wait until the service gives up on an unfinished body.
_CONNECTIONS = 32
_PATIENCE_S = 30.0
_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def bad_requests(run: Run) -> None:
    """Alternate between the routes, over connections that are reused where the request was valid HTTP."""
    outcomes, wrong, refused = Counter[str](), Counter[str](), list[tuple[float, float]]()
    bundle, start = mapped_bundle(run.bundle, run.folder / "mapped"), time.monotonic()
    mapping = open_bundle(bundle).manifest.openrtb
    assert mapping is not None, "the bundle maps BidRequests"
    with run.service(bundle=bundle, limits=_LIMITS, deadline_ms=60_000) as service:
        body = run.target(service, 3).bodies[0]
        good = {SCORE: body, OPENRTB: as_bid_request(body, mapping)}
        before = _state(service.url, good)
        streams = [hostile_requests(json.loads(body), 1, path) for path, body in good.items()]
        requests = chain.from_iterable(zip(*streams, strict=True))
        for turn in range(_TURNS):
            run.hear("requests", turn, _TURNS)
            some = islice(requests, run.plan.bad_requests // _TURNS + 1)
            for hostile, outcome in asyncio.run(sent(("127.0.0.1", int(service.url.rpartition(":")[2])), some)):
                outcomes[outcome] += 1
                # Invalid HTTP may have no answer but the connection's end.
                if not outcome.startswith("4") and (outcome != "closed" or hostile.is_whole):
                    wrong[f"{hostile.what}: {outcome}"] += 1
            refused.append((round(time.monotonic() - start, 2), outcomes.total() - wrong.total()))
        after = _state(service.url, good)
    run.timeline.levels = {"refused, in all": refused}
    run.figures |= {"requests": outcomes.total(), **dict(sorted(outcomes.items()))}
    run.check("no reply is a 5xx", not any(outcome.startswith("5") for outcome in outcomes))
    run.check("no invalid request is scored", not any(outcome.startswith("2") for outcome in outcomes))
    run.check("none hangs", outcomes["hung"] == 0)
    run.check(f"each is refused as it should be {dict(wrong.most_common(5)) or ''}", not wrong)
    run.check("the service has not restarted", before[0] == after[0] > 0)
    run.check("a good request has the same scores by every route", len(set(before[1])) == 1)
    run.check("a good request still gets the same scores", before[1] == after[1])


def _state(url: str, good: Mapping[str, bytes]) -> tuple[float, list[str]]:
    """Return the service's start time, and the scores of a good request by each route. Raises ClientError if it gets
    none."""
    with ServiceConnection(url) as client:
        replies = {path: client.post(path, body) for path, body in good.items()}
        for path, reply in replies.items():
            reply.check(200, path)
        score, bid = (json.loads(replies[path].body) for path in (SCORE, OPENRTB))
        found = [json.dumps(reply["candidates"]) for reply in (score, bid["imp"][IMPRESSION])]
        return client.metric("process_start_time_seconds"), found


async def sent(place: tuple[str, int], requests: Iterator[Hostile]) -> list[tuple[Hostile, str]]:
    """Send requests over a few connections; return each with its status, `closed` without an answer, or `hung`."""
    outcomes: list[tuple[Hostile, str]] = []

    async def client() -> None:
        link: _Link | None = None
        for hostile in requests:
            if link is not None and not hostile.is_whole:
                link[1].transport.abort()
                link = None
            was_open = link is not None
            outcome, link = await _exchange(place, link, hostile)
            if was_open and outcome == "closed":  # it may have been idle for too long
                outcome, link = await _exchange(place, None, hostile)
            outcomes.append((hostile, outcome))
        if link is not None:
            link[1].transport.abort()

    await asyncio.gather(*(client() for _ in range(_CONNECTIONS)))
    return outcomes


async def _exchange(place: tuple[str, int], link: _Link | None, hostile: Hostile) -> tuple[str, _Link | None]:
    """Send a request over a connection, a new one if there is none; return its outcome, and the connection if open."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = link = link or await asyncio.open_connection(*place)
            writer.write(hostile.request)
            status, head = await read_reply(reader)
            if hostile.is_whole and b"connection: close" not in head:
                return str(status), link
            outcome = str(status)
    except TimeoutError:
        outcome = "hung"
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        outcome = "closed"
    if link is not None:
        link[1].transport.abort()
    return outcome, None


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and lower-case head of the next reply. Raises what the reader does."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split()[0]) if b"content-length:" in head else 0
    await reader.readexactly(length)
    return int(head.split()[1]), head
