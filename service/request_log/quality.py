"""Model quality from logged requests: drift against the served bundle's reference, and observed against predicted
clicks.

Knows requests, their inputs, and events. Does not know who reads the figures.
"""

import math
from collections import OrderedDict, deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.bundle import Manifest
from msd.contract.log import EventRecord, RequestRecord
from msd.contract.pricing import PRICED, Formula, ecpm_of, served_places
from msd.contract.reference import Distribution, Reference, dense_inputs
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
_WINDOW = 10_000
# Memory of a request, in candidates.
_REQUEST_COSTS = 8
_RANKED_FROM = (2, 6)
"""The best ranks of the second and third group of `RANKS`."""
_JUDGED = np.dtype([("pctr", "f8"), ("is_clicked", "?"), ("rank", "i1"), ("bid", "f4")])


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


class _Shown(NamedTuple):
    key: tuple[str, str]
    at: float
    pctr: float
    rank: int
    bid: float


class _Predicted(NamedTuple):
    """The candidates of one request: scores, NaN of those that were shown, groups of ranks, and bids, NaN without."""

    item_ids: list[str]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int8]
    bids: NDArray[np.float32] | None

    @classmethod
    def of(cls, record: RequestRecord, formula: Formula) -> "_Predicted":
        scores = record.scores[0]
        ecpm = ecpm_of(record.bids, record.pricing, dict(zip(record.heads, record.scores, strict=True)), formula)
        ranks = np.empty(len(scores), np.int8)
        ranks[served_places(ecpm, scores, len(scores))] = np.digitize(np.arange(len(scores)) + 1, _RANKED_FROM)
        bids = None if record.bids is None else np.array(record.bids, np.float32)
        if bids is not None and record.pricing is not None:
            # Bids for other things are of another scale.
            bids[np.array(record.pricing) != "cpc"] = np.nan
        return cls(record.item_ids, scores.copy(), ranks, bids)

    def is_due(self, item_id: str) -> bool:
        """Return whether it is a candidate that was not shown yet."""
        return item_id in self.item_ids and not math.isnan(self.scores[self.item_ids.index(item_id)])

    def take(self, key: tuple[str, str], at: float) -> _Shown | None:
        """Take a candidate on its first impression."""
        if not self.is_due(key[1]):
            return None
        place = self.item_ids.index(key[1])
        bid = math.nan if self.bids is None else float(self.bids[place])
        shown = _Shown(key, at, float(self.scores[place]), int(self.ranks[place]), bid)
        self.scores[place] = np.nan
        return shown


class Observed:
    """Outcomes of the latest impressions; bounded in memory."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._predictions: OrderedDict[str, _Predicted] = OrderedDict()
        self._remembered = 0
        self._waiting: deque[_Shown] = deque()
        self._shown: set[tuple[str, str]] = set()
        self._clicked: set[tuple[str, str]] = set()
        # Ring buffer of the latest, and their total number.
        self._judged = np.zeros(_WINDOW, _JUDGED)
        self._judgements = 0
        self._newest_at = 0.0

    def record(self, record: RequestRecord, formula: Formula = PRICED) -> None:
        if record.request_id in self._predictions:
            return
        self._predictions[record.request_id] = _Predicted.of(record, formula)
        self._remembered += _REQUEST_COSTS + len(record.item_ids)
        while self._remembered > limits.MAX_REMEMBERED:
            request_id, oldest = self._predictions.popitem(last=False)
            self._remembered -= _REQUEST_COSTS + len(oldest.item_ids)
            self._clicked.difference_update((request_id, item_id) for item_id in oldest.item_ids)

    def event(self, event: EventRecord) -> None:
        """Count an impression or a click; conversions, unknown requests and repetitions are ignored."""
        if event.type == "conversion":
            return
        # A clock that is ahead would settle new events at once.
        at = min(event.at, event.received_at)
        self._newest_at = max(self._newest_at, at)
        key = (event.request_id or "", event.item_id)
        predicted = self._predictions.get(key[0])
        if event.type == "click":
            if key in self._shown or (predicted is not None and predicted.is_due(event.item_id)):
                self._clicked.add(key)
            return
        shown = None if predicted is None else predicted.take(key, at)
        if shown is not None:
            self._shown.add(key)
            self._waiting.append(shown)

    def tell(self) -> None:
        """Judge settled impressions, and set the gauges."""
        settled = self._newest_at - SETTLE_S
        while self._waiting and (self._waiting[0].at <= settled or len(self._waiting) > limits.MAX_REMEMBERED):
            shown = self._waiting.popleft()
            is_clicked = shown.key in self._clicked
            self._shown.discard(shown.key)
            self._clicked.discard(shown.key)
            self._judged[self._judgements % _WINDOW] = shown.pctr, is_clicked, shown.rank, shown.bid
            self._judgements += 1
        judged = self._judged[: self._judgements]
        clicks = int(judged["is_clicked"].sum())
        metrics = self._metrics
        metrics.joined_impressions.set(len(judged))
        metrics.joined_clicks.set(clicks)
        metrics.predicted_over_observed.set(judged["pctr"].sum() / clicks if clicks else math.nan)
        metrics.shown(*_by_rank_and_bid(judged))


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
        for name in ("pctr", "is_clicked")
    )
    return expected, observed
