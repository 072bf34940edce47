"""Ours of a made world over HTTP: trained on a log that ends now, exported, served with the log's events, and asked for
the auctions; beside it the same model offline."""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.worlds.bench import open_bench
from lab.worlds.cell import PAGE, export_ours, predict_ours
from lab.worlds.law import Floats
from lab.worlds.log import columns_of
from lab.worlds.made import Auctions
from lab.worlds.world import WORLDS, Given, Ready
from loadtest.http_client import ServiceConnection
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.demo.service import serve

_BATCH = 500  # rows, each of which is one or two events
_PATIENCE_S = "86400"  # between the log's end and the requests: training takes its time


class Served(NamedTuple):
    """Revenue of the first place and of a page by the service's scores and by the same model offline, and the largest
    difference of a probability between the two."""

    first_ecpm: float
    first_offline: float
    page_ecpm: float
    page_offline: float
    largest_difference: float


def serve_world(name: str, given: Given, auctions: int) -> Served:
    """Return what the service earns in the auctions of a made world."""
    with tempfile.TemporaryDirectory(prefix="msd-worlds-") as work:
        folder = Path(work)
        ready = WORLDS[name].ready(replace(given, ends_at=int(time.time())), folder)
        bundle, log = export_ours(ready, folder / "ours"), folder / "service.log"
        assert ready.made is not None, "only made worlds are served"
        drawn = ready.made.auctions(auctions)
        settings: dict[str, Any] = {"MSD_LIVE": "on", "MSD_LIVE_LAG_SECONDS": _PATIENCE_S}
        settings["MSD_STATE_DIR"] = str(folder / "state")
        with serve(bundle, log, **settings) as (url, _), ServiceConnection(url) as service:
            for events in _batches(load_dataset(ready.folder)):
                service.post("/v1/events", json.dumps({"events": events}).encode()).check(202)
            start = time.time()
            scores = _asked(service, ready, drawn)
            moment = int((start + time.time()) / 2)
        found = predict_ours(open_bench(ready, "auction", auctions, moment), folder / "ours")
        offline = found["candidates"] * found["conversions"]
    return Served(
        drawn.revenue(scores),
        drawn.revenue(offline),
        drawn.revenue(scores, PAGE),
        drawn.revenue(offline, PAGE),
        float(np.abs(scores - offline).max()),
    )


def _batches(data: Dataset) -> Iterator[list[dict[str, Any]]]:
    """Yield impressions and clicks of valid and test rows, which the bundle's rows do not have."""
    later = data.events.filter(split_events(data.events, data.config) >= Part.VALID)
    for start in range(0, later.height, _BATCH):
        columns = later[start : start + _BATCH].select("user_id", "item_id", "at", "label")
        yield [
            {"event_id": f"{number}-{kind}", "type": kind, "user_id": user, "item_id": item, "at": at}
            for number, (user, item, at, label) in enumerate(columns.iter_rows(), start)
            for kind in ("impression", "click")[: 1 + label]
        ]


def _asked(service: ServiceConnection, ready: Ready, drawn: Auctions) -> Floats:
    """Return the service's probabilities [A · N] of what is paid for, one request per auction."""
    assert ready.made is not None, "only made worlds are served"
    columns, size = columns_of(ready.made.law, drawn.shown), drawn.bids.shape[1]
    users, items = columns.pop("user_id"), columns.pop("item_id")
    columns.pop("position", None)  # the service's is the first
    found = []
    for start in range(0, len(users), size):
        request = {
            "user_id": users[start],
            "context": {name: values[start] for name, values in columns.items()},
            "candidates": {"id": items[start : start + size]},
        }
        heads = json.loads(service.scored(json.dumps(request).encode()).body)["candidates"]
        found.append(np.array(heads["pctr"]) * np.array(heads.get("pcvr", 1.0)))
    return np.concatenate(found)
