"""What logged requests say of a model's quality: drift against the served bundle's reference, and clicks that came
against those that were predicted.

Knows requests, what they were scored from, and events. Does not know who reads the figures.
"""

import math
from collections import OrderedDict, deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import assemble
from msd.contract.bundle import Manifest
from msd.contract.log import Basis, EventRecord, RequestRecord
from msd.contract.reference import Distribution, Reference, dense_inputs
from msd.contract.request import CheckedRequest
from service.runtimes.runtime import Scores
from service.telemetry.metrics import Metrics

# Of fewer requests a distribution is too rough to be compared: chance alone makes it differ.
LEAST_REQUESTS = 200
# The weight of what came before shrinks by this with each request, so that the latest 5,000 or so count.
_FADES = 1 - 1 / 5_000
_TELL_EVERY = 50
SETTLE_S = 600.0
"""An impression is judged when events have come that are so much later: most clicks have come by then."""
_WINDOW = 10_000
_MAX_REMEMBERED = 500_000
# As much memory as a request takes, in candidates.
_REQUEST_COSTS = 8


class Drift:
    """The drift of one service's champion; another bundle begins anew."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watched: _Watched | None = None
        self._manifest_sha256 = ""

    def add(self, manifest: Manifest, request: CheckedRequest, basis: Basis, scores: Scores) -> None:
        """Counts a request that the champion, whose manifest this is, has scored from `basis`."""
        if manifest.sha256 != self._manifest_sha256:
            self._manifest_sha256 = manifest.sha256
            self._watched = None if manifest.reference is None else _Watched(manifest, manifest.reference)
        watched = self._watched
        if watched is None:
            return
        watched.add(request, basis, scores)
        if watched.requests >= LEAST_REQUESTS and watched.requests % _TELL_EVERY == 0:
            self._metrics.drift(self._manifest_sha256, watched.inputs(), watched.heads())


class _Watched:
    """One bundle's reference, and what was counted of late."""

    def __init__(self, manifest: Manifest, reference: Reference) -> None:
        self.requests = 0
        self._schema = manifest.feature_schema
        known = dense_inputs(self._schema)
        self._inputs = {name: (known[name], _Counted(one)) for name, one in reference.inputs.items() if name in known}
        self._heads = {head: _Counted(one) for head, one in reference.scores.items()}

    def add(self, request: CheckedRequest, basis: Basis, scores: Scores) -> None:
        """Counts one request."""
        tensors = assemble(self._schema, request, basis.at, basis.user, basis.items).tensors
        self.requests += 1
        for column, counted in self._inputs.values():
            counted.add(column.values(tensors))
        for head, counted in self._heads.items():
            if head in scores:
                counted.add(scores[head].astype(np.float64))

    def inputs(self) -> dict[str, float]:
        """Return the drift of each input."""
        return {name: counted.psi() for name, (_, counted) in self._inputs.items()}

    def heads(self) -> dict[str, float]:
        """Return the drift of each head's scores."""
        return {head: counted.psi() for head, counted in self._heads.items()}


class _Counted:
    """Values of late by the bins of a reference."""

    def __init__(self, reference: Distribution) -> None:
        self._reference = reference
        self._counts = np.zeros(len(reference.shares))

    def add(self, values: NDArray[np.floating]) -> None:
        """Counts the values [n] of one request, which together weigh as one: those of one user are alike."""
        self._counts *= _FADES
        self._counts += self._reference.counts(values) / len(values)

    def psi(self) -> float:
        return self._reference.psi(self._counts)


class _Shown(NamedTuple):
    key: tuple[str, str]
    at: float
    pctr: float


class _Predicted(NamedTuple):
    """The candidates of one request and their scores, NaN of those that were shown."""

    item_ids: list[str]
    scores: NDArray[np.float32]

    def is_due(self, item_id: str) -> bool:
        """Whether it is a candidate that was not shown yet."""
        return item_id in self.item_ids and not math.isnan(self.scores[self.item_ids.index(item_id)])

    def take(self, item_id: str) -> float | None:
        """The score of a candidate that is shown, the first time."""
        if not self.is_due(item_id):
            return None
        place = self.item_ids.index(item_id)
        score = float(self.scores[place])
        self.scores[place] = np.nan
        return score


class Observed:
    """What came of the latest impressions; bounded in memory."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._predictions: OrderedDict[str, _Predicted] = OrderedDict()
        self._remembered = 0
        self._waiting: deque[_Shown] = deque()
        self._shown: set[tuple[str, str]] = set()
        self._clicked: set[tuple[str, str]] = set()
        self._judged: deque[tuple[float, bool]] = deque()
        self._predicted = 0.0
        self._clicks = 0
        self._newest_at = 0.0

    def record(self, record: RequestRecord) -> None:
        """Remembers what was predicted."""
        if record.request_id in self._predictions:
            return
        self._predictions[record.request_id] = _Predicted(record.item_ids, record.scores[0].copy())
        self._remembered += _REQUEST_COSTS + len(record.item_ids)
        while self._remembered > _MAX_REMEMBERED:
            request_id, oldest = self._predictions.popitem(last=False)
            self._remembered -= _REQUEST_COSTS + len(oldest.item_ids)
            self._clicked.difference_update((request_id, item_id) for item_id in oldest.item_ids)

    def event(self, event: EventRecord) -> None:
        """Takes an impression or a click; one of a request that is not remembered is left out, as is a repetition."""
        # A clock that is ahead would settle what has only come.
        at = min(event.at, event.received_at)
        self._newest_at = max(self._newest_at, at)
        key = (event.request_id or "", event.item_id)
        predicted = self._predictions.get(key[0])
        if event.type == "click":
            if key in self._shown or (predicted is not None and predicted.is_due(event.item_id)):
                self._clicked.add(key)
            return
        pctr = None if predicted is None else predicted.take(event.item_id)
        if pctr is not None:
            self._shown.add(key)
            self._waiting.append(_Shown(key, at, pctr))

    def tell(self) -> None:
        """Judges what has settled, and sets the figures."""
        settled = self._newest_at - SETTLE_S
        while self._waiting and (self._waiting[0].at <= settled or len(self._waiting) > _MAX_REMEMBERED):
            self._judge(self._waiting.popleft())
        metrics = self._metrics
        metrics.joined_impressions.set(len(self._judged))
        metrics.joined_clicks.set(self._clicks)
        metrics.predicted_over_observed.set(self._predicted / self._clicks if self._clicks else math.nan)

    def _judge(self, shown: _Shown) -> None:
        is_clicked = shown.key in self._clicked
        self._shown.discard(shown.key)
        self._clicked.discard(shown.key)
        self._judged.append((shown.pctr, is_clicked))
        self._predicted += shown.pctr
        self._clicks += is_clicked
        if len(self._judged) > _WINDOW:
            pctr, was_clicked = self._judged.popleft()
            self._predicted -= pctr
            self._clicks -= was_clicked
