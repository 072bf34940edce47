"""A dataset's events as a service would receive them: requests for its test rows, impressions and clicks, by moment;
their replay over HTTP; and the model's offline scores of the same rows.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loadtest.http_client import ServiceConnection
from msd.contract.bundle import open_bundle
from msd.contract.row_file import RowFile
from msd.contract.schema import OUTCOME_FEATURES
from msd.dataset.load import load_dataset
from msd.dataset.split import Part, split_events
from msd.ranker.features import build_features
from msd.student.vectors import load_vectors
from msd.training.folder import load_ranker
from msd.training.train import predict
from native.columns import Counts, encode_counts, encode_side
from service.limits import MAX_EVENTS

Floats = NDArray[np.float64]


class LiveScores(NamedTuple):
    """Scores [n], and numbers of new and duplicate events."""

    scores: Floats
    accepted: int
    duplicates: int


class TrainedFolders(NamedTuple):
    """A dataset and what was trained on it."""

    dataset: Path
    student: Path
    model: Path
    bundle: Path


class ReplayedRequest(NamedTuple):
    """One request, and its candidates' indices among all scores."""

    request: dict[str, Any]
    places: list[int]


class ReplayedMoment(NamedTuple):
    """Requests, then events, at one time (Unix s)."""

    at: float
    asked: list[ReplayedRequest]
    events: list[dict[str, Any]]


class Period(NamedTuple):
    """The test rows' labels [n] and users [n], in the order of the scores, and the moments.

    `is_after`: whether all moments are later than the rows that training counted, and so than the export's rows.
    """

    labels: Floats
    users: NDArray[np.int64]
    moments: list[ReplayedMoment]
    is_after: bool

    @property
    def before(self) -> float:
        """A time (Unix s) before all moments."""
        return self.moments[0].at - 1.0


def period_of(dataset: Path, bundle: Path, most: int, from_nothing: bool = False) -> Period:
    """Return valid and test if they follow all of train; otherwise everything, for a service that starts empty.

    It ends with the last of the first `most` test rows. `from_nothing`: everything in any case.
    """
    data, schema = load_dataset(dataset), open_bundle(bundle).schema
    parts = split_events(data.events, data.config)
    at = data.events["at"].to_numpy().astype(np.float64)
    later = parts >= Part.VALID
    is_after = not from_nothing and bool(at[later].min() > at[~later].max())
    tested = np.flatnonzero(parts == Part.TEST)[:most]
    told = np.flatnonzero((later if is_after else np.ones(len(at), bool)) & (at <= at[tested[-1]]))
    context = [name for name in schema.settable["context"] if name in data.events.columns]
    columns = {name: data.events[name].to_list() for name in ("user_id", "item_id", "label", *context)}
    users = np.unique(data.events["user_id"].to_numpy()[tested], return_inverse=True)[1].astype(np.int64)
    places = {int(row): place for place, row in enumerate(tested)}
    return Period(
        data.events["label"].to_numpy()[tested].astype(np.float64),
        users,
        _moments(at, columns, context, told, places),
        is_after,
    )


def offline_scores(made: TrainedFolders, most: int, delay_s: float = 0.0) -> Floats:
    """Return the model's scores of the first `most` test rows [n], with live counts that know an event once more than
    `delay_s` have passed.

    As in the service, features that are constant online have that constant, and click rates of a history's items are
    those of the bundle's rows.
    """
    data = load_dataset(made.dataset)
    trained, _ = load_ranker(made.model)
    schema = trained.schema
    features = build_features(data, schema, load_vectors(made.student), delay_s)
    count = len(data.events)
    context = {name: data.events[name].to_list() for name in schema.settable["context"]}
    constant = {name: [value] * count for name, value in schema.serving_constants.items()}
    categorical, numeric = encode_side(schema, "context", {**context, **constant}, count)
    if state := schema.state("item"):
        bundle = open_bundle(made.bundle)
        file = RowFile.of(bundle, "item")
        rates = encode_counts(state, Counts.of(file.get(features.item.entities.ids).records), 0.0)[:, 0]
        # The last, of no item, is for the padding.
        of_items = torch.from_numpy(np.append(rates, np.float32(0.0)))
        features.history_outcomes[..., OUTCOME_FEATURES.index("smoothed_log_odds")] = of_items[features.history]
    served = replace(
        features.live(),
        context_categorical=torch.from_numpy(categorical),
        context_dense=torch.from_numpy(numeric),
    )
    return predict(trained, served, features.of_part(Part.TEST)[:most])


def replay_moments(url: str, moments: Iterable[ReplayedMoment], count: int, delay_s: float | None = None) -> LiveScores:
    """Score `count` rows in the moments' order. Before a request, send all events that happened more than `delay_s`
    earlier; at the end, send the others. None: send no events. Raises ClientError for the first invalid reply."""
    scores = np.full(count, np.nan)
    accepted = duplicates = 0
    waiting: list[dict[str, Any]] = []
    with ServiceConnection(url, timeout=60.0) as client:

        def send_events(before: float) -> None:
            """As late as possible, and in large batches."""
            nonlocal accepted, duplicates
            known = bisect_left(waiting, before, key=itemgetter("at"))
            for start in range(0, known, MAX_EVENTS):
                batch = waiting[start : min(start + MAX_EVENTS, known)]
                reply = client.post("/v1/events", json.dumps({"events": batch}).encode())
                reply.check(202)
                counts = json.loads(reply.body)
                accepted, duplicates = accepted + counts["accepted"], duplicates + counts["duplicates"]
            del waiting[:known]

        for moment in moments:
            if moment.asked:
                send_events(moment.at - (delay_s or 0.0))
            for asked in moment.asked:
                reply = json.loads(client.scored(json.dumps(asked.request).encode()).body)
                scores[asked.places] = reply["candidates"]["pctr"]
            if delay_s is not None:
                waiting += moment.events
        send_events(np.inf)
    return LiveScores(scores, accepted, duplicates)


def _moments(
    at: Floats,
    columns: dict[str, list[Any]],
    context: Sequence[str],
    rows: NDArray[np.int64],
    places: dict[int, int],
) -> list[ReplayedMoment]:
    """Return the moments of `rows` in time order; `places` are the test rows' indices among the scores."""
    by_time: dict[float, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_time[float(at[row])].append(row)
    moments = []
    for moment_at in sorted(by_time):
        asked: dict[str, ReplayedRequest] = {}
        events: list[dict[str, Any]] = []
        for row in by_time[moment_at]:
            values = {name: column[row] for name, column in columns.items()}
            if row in places:
                features = {name: values[name] for name in context}
                about = {"user_id": values["user_id"], "at": moment_at, "context": features}
                request = asked.setdefault(json.dumps(about), ReplayedRequest({**about, "candidates": {"id": []}}, []))
                request.request["candidates"]["id"].append(values["item_id"])
                request.places.append(places[row])
            event = {"event_id": str(row), "at": moment_at} | {name: values[name] for name in ("user_id", "item_id")}
            events += [{**event, "type": kind} for kind in ("impression", "click")[: 1 + int(values["label"])]]
        moments.append(ReplayedMoment(moment_at, list(asked.values()), events))
    return moments
