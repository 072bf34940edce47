"""The test period of a dataset, event by event over HTTP: each is scored, then told to a service that counts it. Beside
it, the same requests to a service whose counts are those of the bundle's rows.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from loadtest.chaos.ground import Ground
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import Timeline
from loadtest.chaos.trained import trained
from loadtest.http_client import Client, ClientError
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.ranker.bootstrap import interval, resample_metrics

_NAME = "live-counts"
_JSON = {"Content-Type": "application/json"}
_BATCH = 1_000
_LAG_S = 1e9
_POINTS = 80
Floats = NDArray[np.float64]


class _Event(NamedTuple):
    """One row of the dataset; `number` makes its events' ids."""

    number: int
    user: str
    item: str
    at: int
    label: int
    context: dict[str, Any]
    is_test: bool


def _run(ground: Ground) -> Found:
    plan = ground.plan
    data = trained(ground)
    events = _events(load_dataset(data.dataset), plan.live_rows)
    test = [event for event in events if event.is_test]
    states = ground.work / _NAME / "states"
    shutil.rmtree(states, ignore_errors=True)
    with ground.service(_NAME, bundle=data.bundle, deadline_ms=60_000) as service, Client(service.url) as client:
        frozen = np.array([_score(client, event) for event in test])
    with (
        ground.service(
            _NAME, bundle=data.bundle, deadline_ms=60_000, live="on", live_lag_seconds=_LAG_S, state_dir=states
        ) as service,
        Client(service.url) as client,
    ):
        live, accepted = _progress(ground, client, events, len(test))
    labels = np.array([float(event.label) for event in test])
    users = np.unique([event.user for event in test], return_inverse=True)[1].astype(np.int64)
    whole = resample_metrics(labels, np.stack([live, frozen]), np.zeros(len(labels), np.int64), 1)
    drawn = resample_metrics(labels, np.stack([live, frozen]), users, plan.resamples)
    ends = interval(drawn.auc[0] - drawn.auc[1])
    told = sum(1 + event.label for event in events)
    return Found(
        {
            "live_auc": round(float(whole.auc[0, 0]), 4),
            "frozen_auc": round(float(whole.auc[1, 0]), 4),
            "live_gain_low": ends and round(ends[0], 4),
            "live_gain_high": ends and round(ends[1], 4),
            "live_rows": len(test),
            "live_events": told,
        },
        (
            Check("every event is counted", accepted == told),
            Check("live counts change the scores", bool((live != frozen).any())),
            # Of the model and the data, not of the service: so no reason for the command to fail.
            Check(
                "their gain in AUC is above 0, with 95 % of resamples of the users", bool(ends and ends[0] > 0), True
            ),
        ),
        Timeline(levels={"AUC, live": _so_far(labels, live), "AUC, frozen": _so_far(labels, frozen)}),
    )


def _events(dataset: Dataset, most: int) -> list[_Event]:
    """Those of the valid and the test period as they came, to the last of so many test events."""
    parts = split_events(dataset.events, dataset.config)
    context = [one for one in dataset.config.features if one.side == "context" and one.serving_value is None]
    names = [one.name for one in context]
    columns = ("user_id", "item_id", "at", "label", *names)
    table = dataset.events.select(columns).with_columns(part=pl.Series(parts))
    found: list[_Event] = []
    for number, (user, item, at, label, *values, part) in enumerate(table.iter_rows()):
        if part in (Part.VALID, Part.TEST):
            known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            found.append(_Event(number, user, item, at, label, known, part == Part.TEST))
    places = [place for place, event in enumerate(found) if event.is_test][:most]
    return found[: places[-1] + 1]


def _progress(ground: Ground, client: Client, events: Sequence[_Event], tests: int) -> tuple[Floats, int]:
    """Scores of the test events, each from all that came before it, and how many events were taken as new."""
    scores: list[float] = []
    waiting: list[_Event] = []
    accepted = 0
    # What happens at one moment does not know of each other.
    for _, group in groupby(events, key=lambda event: event.at):
        now = list(group)
        if any(event.is_test for event in now):
            accepted += _tell(client, waiting)
            waiting = []
            scores += [_score(client, event) for event in now if event.is_test]
            ground.heard(f"{_NAME}: events", len(scores), tests)
        waiting += now
    return np.array(scores), accepted + _tell(client, waiting)


def _score(client: Client, event: _Event) -> float:
    document = {"user_id": event.user, "at": event.at, "context": event.context, "candidates": {"id": [event.item]}}
    reply = client.score(json.dumps(document).encode())
    if reply.status != 200:
        raise ClientError(f"a test event was answered with {reply.status}: {reply.body[:300]!r}")
    return float(json.loads(reply.body)["candidates"]["pctr"][0])


def _tell(client: Client, events: Sequence[_Event]) -> int:
    """How many were new: an impression each, and the clicks."""
    all_of_them = [one for event in events for one in _as_told(event)]
    accepted = 0
    for start in range(0, len(all_of_them), _BATCH):
        body = json.dumps({"events": all_of_them[start : start + _BATCH]}).encode()
        reply = client.post("/v1/events", body, _JSON)
        if reply.status != 202:
            raise ClientError(f"events were answered with {reply.status}: {reply.body[:300]!r}")
        accepted += json.loads(reply.body)["accepted"]
    return accepted


def _as_told(event: _Event) -> Iterator[dict[str, Any]]:
    for kind in ("impression", "click")[: 1 + event.label]:
        yield {
            "event_id": str(event.number),
            "type": kind,
            "user_id": event.user,
            "item_id": event.item,
            "at": event.at,
        }


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """The AUC of the first rows, by their number."""
    points = []
    for count in np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)):
        if 0 < labels[:count].sum() < count:
            groups = np.zeros(count, np.int64)
            auc = resample_metrics(labels[:count], scores[None, :count], groups, 1).auc[0, 0]
            points.append((float(count), round(float(auc), 4)))
    return points


LIVE_COUNTS = Scenario(_NAME, "The test period's events, scored and told one by one", ("live_auc", "frozen_auc"), _run)
