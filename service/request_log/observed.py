"""Clicks that were predicted against clicks that came, of the latest impressions of logged requests.

Knows records and events. A click that comes later than the settling time after its impression is not waited for.
"""

from collections import OrderedDict, deque
from typing import NamedTuple

from msd.contract.log import EventRecord, RequestRecord
from service.metrics import Metrics

SETTLE_S = 600.0
"""An impression is judged when events have come that are so much later: most clicks have come by then."""
_WINDOW = 10_000
_MAX_REMEMBERED = 500_000


class _Shown(NamedTuple):
    key: tuple[str, str]
    at: float
    pctr: float


class Observed:
    """What came of the latest impressions; bounded in memory."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._scores: OrderedDict[str, dict[str, float]] = OrderedDict()
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
        if record.request_id in self._scores:
            return
        scores = dict(zip(record.item_ids, record.scores[0].tolist(), strict=True))
        self._scores[record.request_id] = scores
        self._remembered += len(scores)
        while self._remembered > _MAX_REMEMBERED:
            request_id, oldest = self._scores.popitem(last=False)
            self._remembered -= len(oldest)
            self._clicked.difference_update((request_id, item_id) for item_id in oldest)

    def event(self, event: EventRecord) -> None:
        """Takes an impression or a click; one of a request that is not remembered is left out, as is a repetition."""
        # A clock that is ahead would settle what has only come.
        at = min(event.at, event.received_at)
        self._newest_at = max(self._newest_at, at)
        key = (event.request_id or "", event.item_id)
        scores = self._scores.get(key[0], {})
        if event.type == "click":
            if key in self._shown or event.item_id in scores:
                self._clicked.add(key)
            return
        pctr = scores.pop(event.item_id, None)
        if pctr is not None:
            self._remembered -= 1
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
        metrics.predicted_over_observed.set(self._predicted / self._clicks if self._clicks else 0.0)

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
