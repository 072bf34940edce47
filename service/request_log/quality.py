"""Model quality from logged requests: drift against the served bundle's reference, and observed against predicted
clicks and conversions, by segment.

Knows requests, their inputs, and events. Does not know who reads the figures.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import Manifest
from msd.contract.log import EventRecord, RequestRecord
from msd.contract.pricing import PRICED, Formula, ecpm_of, served_places
from msd.contract.reference import Distribution, Reference, dense_inputs
from msd.contract.tensors import Tensors
from service import limits
from service.runtimes.runtime import Scores
from service.telemetry.metrics import BID_QUARTERS, RANKS, Metrics

# A distribution of fewer requests is too rough to compare: it differs by chance.
LEAST_REQUESTS = 200
# Decay per request, so that about the latest 5,000 count.
_FADES = 1 - 1 / 5_000
_TELL_EVERY = 50
SETTLE_S = 600.0
"""An impression is judged once events this much later have arrived: most clicks have arrived by then."""
CONVERSION_SETTLE_S = 86_400.0
"""The same of a click, for its conversion."""
_MOST_DIVISIONS = 4_096
"""Combinations of segments; of others only whether the user is known counts."""
_WINDOW = 10_000
# Memory of a request, in candidates.
_REQUEST_COSTS = 8
_RANKED_FROM = (2, 6)
"""The best ranks of the second and third group of `RANKS`."""
_JUDGED = np.dtype([("expected", "f8"), ("observed", "?"), ("rank", "i1"), ("bid", "f4"), ("division", "i4")])


class Drift:
    """Drift of a service's champion; another bundle starts again."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watched: _Watched | None = None
        self._manifest_sha256 = ""

    def add(self, manifest: Manifest, inputs: Tensors, scores: Scores) -> None:
        """Count a request that the champion, whose manifest this is, has scored from dense `inputs`."""
        if manifest.sha256 != self._manifest_sha256:
            self._manifest_sha256 = manifest.sha256
            self._watched = None if manifest.reference is None else _Watched(manifest, manifest.reference)
        watched = self._watched
        if watched is None:
            return
        watched.add(inputs, scores)
        if watched.requests >= LEAST_REQUESTS and watched.requests % _TELL_EVERY == 0:
            self._metrics.drift(self._manifest_sha256, watched.inputs(), watched.heads())


class _Watched:
    """One bundle's reference, and recent counts."""

    def __init__(self, manifest: Manifest, reference: Reference) -> None:
        self.requests = 0
        known = dense_inputs(manifest.feature_schema)
        self._inputs = {name: (known[name], _Counted(bins)) for name, bins in reference.inputs.items() if name in known}
        self._heads = {head: _Counted(bins) for head, bins in reference.scores.items()}

    def add(self, inputs: Tensors, scores: Scores) -> None:
        self.requests += 1
        for column, counted in self._inputs.values():
            counted.add(column.values(inputs))
        for head, counted in self._heads.items():
            if head in scores:
                counted.add(scores[head].astype(np.float64))

    def inputs(self) -> dict[str, float]:
        return {name: counted.psi() for name, (_, counted) in self._inputs.items()}

    def heads(self) -> dict[str, float]:
        return {head: counted.psi() for head, counted in self._heads.items()}


class _Counted:
    """Recent values by the bins of a reference."""

    def __init__(self, reference: Distribution) -> None:
        self._reference = reference
        self._counts = np.zeros(len(reference.shares))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the values [n] of one request with a total weight of one, because values of one user are correlated."""
        self._counts *= _FADES
        self._counts += self._reference.counts(values) / len(values)

    def psi(self) -> float:
        return self._reference.psi(self._counts)


# What waits for long is kept as plain tuples, which the garbage collector does not track: it would walk named tuples
# and lists, and hold all threads meanwhile.
class _Shown(NamedTuple):
    key: tuple[str, str]
    at: float
    pctr: float
    pcvr: float
    rank: int
    bid: float
    division: int


class _Predicted(NamedTuple):
    """The candidates of one request: scores, NaN of those that were shown, those of conversions, groups of ranks, and
    bids, NaN without; the number of the request's segments; and the place of the page that it was scored for."""

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    pcvr: NDArray[np.float32] | None
    ranks: NDArray[np.int8]
    bids: NDArray[np.float32] | None
    division: int
    slot: int | None

    @classmethod
    def of(cls, record: RequestRecord, formula: Formula, division: int) -> "_Predicted":
        by_head = dict(zip(record.heads, record.scores, strict=True))
        scores, pcvr = record.scores[0], by_head.get("pcvr")
        ecpm = ecpm_of(record.bids, record.pricing, by_head, formula)
        ranks = np.empty(len(scores), np.int8)
        ranks[served_places(ecpm, scores, len(scores))] = np.digitize(np.arange(len(scores)) + 1, _RANKED_FROM)
        bids = None if record.bids is None else np.array(record.bids, np.float32)
        if bids is not None and record.pricing is not None:
            # Bids for other things are of another scale.
            bids[np.array(record.pricing) != "cpc"] = np.nan
        pcvr = None if pcvr is None else pcvr.copy()
        return cls(tuple(record.item_ids), scores.copy(), pcvr, ranks, bids, division, record.slot)

    def is_due(self, item_id: str) -> bool:
        """Return whether it is a candidate that was not shown yet."""
        return item_id in self.item_ids and not math.isnan(self.scores[self.item_ids.index(item_id)])

    def take(self, key: tuple[str, str], at: float) -> _Shown | None:
        """Take a candidate on its first impression."""
        if not self.is_due(key[1]):
            return None
        place = self.item_ids.index(key[1])
        pcvr, bid = (math.nan if column is None else float(column[place]) for column in (self.pcvr, self.bids))
        shown = _Shown(key, at, float(self.scores[place]), pcvr, int(self.ranks[place]), bid, self.division)
        self.scores[place] = np.nan
        return shown


class _Outcomes:
    """What waits for its outcome, and the latest of what has settled; bounded in memory."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._waiting: deque[tuple[Any, ...]] = deque()
        self.keys: set[tuple[str, str]] = set()
        self.observed: set[tuple[str, str]] = set()
        # Ring buffer of the latest, and their total number.
        self._judged = np.zeros(_WINDOW, _JUDGED)
        self._judgements = 0

    @property
    def latest(self) -> NDArray[np.void]:
        return self._judged[: self._judgements]

    def add(self, shown: _Shown) -> None:
        self.keys.add(shown.key)
        self._waiting.append(tuple(shown))

    def settle(self, newest_at: float, head: Literal["pctr", "pcvr"]) -> list[_Shown]:
        """Judge what has settled by the head's score, and return that with the outcome."""
        found = []
        while self._waiting:
            shown = _Shown(*self._waiting[0])
            if shown.at > newest_at - self._settle_s and len(self._waiting) <= limits.MAX_REMEMBERED:
                break
            self._waiting.popleft()
            is_observed = shown.key in self.observed
            self.keys.discard(shown.key)
            self.observed.discard(shown.key)
            row = getattr(shown, head), is_observed, shown.rank, shown.bid, shown.division
            self._judged[self._judgements % _WINDOW] = row
            self._judgements += 1
            found += [shown] if is_observed else []
        return found


class Observed:
    """Outcomes of the latest impressions and clicks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._predictions: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        self._remembered = 0
        self._clicks, self._conversions = _Outcomes(SETTLE_S), _Outcomes(CONVERSION_SETTLE_S)
        self._divisions: dict[tuple[str, ...], int] = {}
        self._newest_at = 0.0

    def record(self, record: RequestRecord, formula: Formula = PRICED) -> None:
        if record.request_id in self._predictions:
            return
        segments = tuple(record.segments or ())
        if segments not in self._divisions and len(self._divisions) >= _MOST_DIVISIONS:
            segments = segments[:1]
        division = self._divisions.setdefault(segments, len(self._divisions))
        self._predictions[record.request_id] = tuple(_Predicted.of(record, formula, division))
        self._remembered += _REQUEST_COSTS + len(record.item_ids)
        while self._remembered > limits.MAX_REMEMBERED:
            request_id, oldest = self._predictions.popitem(last=False)
            item_ids = _Predicted(*oldest).item_ids
            self._remembered -= _REQUEST_COSTS + len(item_ids)
            keys = {(request_id, item_id) for item_id in item_ids}
            never_shown = self._clicks.observed & keys - self._clicks.keys
            self._clicks.observed -= never_shown
            self._conversions.observed -= never_shown

    def event(self, event: EventRecord) -> None:
        """Count an event; unknown requests, repetitions, and impressions at other places of the page than scores are
        for are ignored."""
        # A clock that is ahead would settle new events at once.
        at = min(event.at, event.received_at)
        self._newest_at = max(self._newest_at, at)
        key = (event.request_id or "", event.item_id)
        held = self._predictions.get(key[0])
        predicted = None if held is None else _Predicted(*held)
        if event.type == "conversion":
            if key in self._conversions.keys or key in self._clicks.observed:
                self._conversions.observed.add(key)
        elif event.type == "click":
            if key in self._clicks.keys or (predicted is not None and predicted.is_due(event.item_id)):
                self._clicks.observed.add(key)
        elif predicted is not None and (predicted.slot is None or event.position in (None, predicted.slot)):
            if (shown := predicted.take(key, at)) is not None:
                self._clicks.add(shown)

    def tell(self) -> None:
        """Judge settled impressions and clicks, and set the gauges."""
        for clicked in self._clicks.settle(self._newest_at, "pctr"):
            if math.isnan(clicked.pcvr):
                self._conversions.observed.discard(clicked.key)
            else:
                self._conversions.add(clicked)
        self._conversions.settle(self._newest_at, "pcvr")
        self._metrics.shown(*_by_rank_and_bid(self._clicks.latest))
        by_head = {"pctr": self._clicks.latest, "pcvr": self._conversions.latest}
        self._metrics.outcomes({head: _by_segment(rows, self._divisions) for head, rows in by_head.items()})


def _by_segment(judged: NDArray[np.void], divisions: Iterable[tuple[str, ...]]) -> dict[str, tuple[float, float]]:
    """Return the expected and observed outcomes of each segment, and of all together."""
    found: dict[str, tuple[float, float]] = {}
    names = list(divisions)
    sums = [np.bincount(judged["division"], judged[name], len(names)) for name in ("expected", "observed")]
    for number in np.unique(judged["division"]).tolist():
        for segment in ("all", *names[number]):
            before = found.get(segment, (0.0, 0.0))
            found[segment] = before[0] + float(sums[0][number]), before[1] + float(sums[1][number])
    return found


def _by_rank_and_bid(judged: NDArray[np.void]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected and observed clicks [ranks, bid quarters] of impressions [n]; the last column is those without a bid."""
    shape = len(RANKS), len(BID_QUARTERS)
    bids, none = judged["bid"], shape[1] - 1
    has_bid = ~np.isnan(bids)
    columns = np.full(len(judged), none)
    if has_bid.any():
        columns[has_bid] = np.digitize(bids[has_bid], np.quantile(bids[has_bid], (0.25, 0.5, 0.75)))
    cells = judged["rank"].astype(np.intp) * shape[1] + columns
    expected, observed = (
        np.bincount(cells, judged[name], shape[0] * shape[1]).reshape(shape).astype(np.float64)
        for name in ("expected", "observed")
    )
    return expected, observed
