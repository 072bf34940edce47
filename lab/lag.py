"""`msd lab lag`: from an event that is sent to the first score that counts it, in both stores of live states."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from lab.bench.redis import RedisProcess
from loadtest.http_client import ServiceConnection
from loadtest.processes import publish
from msd.contract.bundle import GOLDENS
from msd.contract.errors import MsdError
from msd.contract.golden import read_goldens
from msd.demo.service import serve

app = typer.Typer(add_completion=False)
_WITHIN_S = 10.0
_SHOWN = (50, 99)


@app.command("lag")
def lag(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle whose rows have counts.")],
    events: Annotated[int, typer.Option(min=10, help="Events, one after the other.")] = 500,
) -> None:
    """Print as JSON, by store, milliseconds from an event that is sent to its reply and to the first score with it."""
    request = _request(bundle)
    found = {}
    for store in ("embedded", "redis"):
        with _service(bundle, store) as connection:
            found[store] = _measured(connection, request, events)
    typer.echo(json.dumps({"events": events, **found}))


def _request(bundle: Path) -> dict[str, Any]:
    """Return a known user's request for two known items, without a time and a history of its own."""
    for golden in read_goldens(bundle / GOLDENS):
        ids = [one for one in golden.request["candidates"]["id"] if one in golden.items][:2]
        if golden.user and len(ids) == 2:
            context = golden.request.get("context", {})
            return {"user_id": golden.request["user_id"], "context": context, "candidates": {"id": ids}}
    raise MsdError(f"{bundle}: no golden is of a known user and two known items")


@contextmanager
def _service(bundle: Path, store: str) -> Iterator[ServiceConnection]:
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, settings = Path(name), dict[str, Any](MSD_LIVE="on")
        if store == "redis":
            redis = stack.enter_context(RedisProcess(folder / "redis"))
            publish(bundle, redis.url)
            settings |= {"MSD_STORE": "redis", "MSD_REDIS_URL": redis.url}
        else:
            settings |= {"MSD_STATE_DIR": str(folder / "state")}
        url, _ = stack.enter_context(serve(bundle, folder / "service.log", **settings))
        yield stack.enter_context(ServiceConnection(url))


def _measured(connection: ServiceConnection, request: dict[str, Any], events: int) -> dict[str, dict[str, float]]:
    """Return percentiles of both times, by name, in milliseconds."""
    body, times = json.dumps(request).encode(), list[tuple[float, float]]()
    item_id = request["candidates"]["id"][0]
    for number in range(events):
        event = {"user_id": request["user_id"], "item_id": item_id, "at": time.time(), "event_id": f"lag-{number}"}
        both = [{**event, "type": kind} for kind in ("impression", "click")]
        before = connection.scores(body)
        start = time.perf_counter()
        connection.post("/v1/events", json.dumps({"events": both}).encode()).check(202)
        accepted = time.perf_counter() - start
        while connection.scores(body) == before:
            if time.perf_counter() - start > _WITHIN_S:
                raise MsdError(f"event {number} changed no score within {_WITHIN_S:.0f} s")
        times.append((1_000 * accepted, 1_000 * (time.perf_counter() - start)))
    return {
        name: {f"p{share}": round(float(np.percentile(column, share)), 2) for share in _SHOWN}
        for name, column in zip(("accepted_ms", "scored_ms"), zip(*times, strict=True), strict=True)
    }
