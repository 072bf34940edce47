"""Clicks that were predicted against clicks that came, of the latest impressions of logged requests.

Knows records and events. A click that comes later than the settling time after its impression is not waited for.
"""

import math
from collections import OrderedDict, deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.log import EventRecord, RequestRecord
from service.telemetry.metrics import Metrics

SETTLE_S = 600.0
"""An impression is judged when events have come that are so much later: most clicks have come by then."""
_WINDOW = 10_000
_MAX_REMEMBERED = 500_000
# As much memory as a request takes, in candidates.
_REQUEST_COSTS = 8


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
