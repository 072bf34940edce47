"""Prometheus families whose label values exist from the start, and gauges that are set together.

Every family may be written from any thread. Does not know which families there are (`metrics`).
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class Families(CollectorRegistry):
    """A registry that declares families; those with a closed set of label values return a child per value."""

    def __init__(self) -> None:
        super().__init__()
        # A switch of the whole library: `_created` would double the series of all counters and histograms.
        disable_created_metrics()  # type: ignore[no-untyped-call]

    def counter(self, name: str, text: str) -> Counter:
        """Declare a counter without labels."""
        return Counter(name, text, registry=self)

    def counters(self, name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
        """Declare a counter with one label; return the child of each value."""
        family = Counter(name, text, [label], registry=self)
        return {value: family.labels(value) for value in values}

    def gauge(self, name: str, text: str) -> Gauge:
        """Declare a gauge without labels."""
        return Gauge(name, text, registry=self)

    def gauges(self, name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Gauge]:
        """Declare a gauge with one label; return the child of each value."""
        family = Gauge(name, text, [label], registry=self)
        return {value: family.labels(value) for value in values}

    def gauge_set(self, name: str, text: str, labels: Sequence[str]) -> "GaugeSet":
        """Declare a gauge whose label values are known later."""
        family = GaugeSet(name, text, labels)
        self.register(family)
        return family

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        """Declare a histogram without labels."""
        return Histogram(name, text, buckets=bounds, registry=self)

    def histograms(
        self, name: str, text: str, label: str, values: Iterable[str], bounds: Sequence[float]
    ) -> dict[str, Histogram]:
        """Declare a histogram with one label; return the child of each value."""
        family = Histogram(name, text, [label], buckets=bounds, registry=self)
        return {value: family.labels(value) for value in values}


class GaugeSet(Collector):
    """A gauge whose children are replaced together: a scrape sees all the old ones or all the new ones."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(labels)
        self._values: Mapping[Labels, float] = {}

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Set these children and remove all others."""
        self._values = dict(values)

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labelnames)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class Standing:
    """The state of one object among a gauge's states, where the gauge counts objects per state."""

    __slots__ = ("_gauges", "_lock", "_state")

    def __init__(self, gauges: Mapping[str, Gauge], state: str) -> None:
        self._gauges = gauges
        self._state: str | None = state
        self._lock = threading.Lock()
        gauges[state].inc()

    def set(self, state: str | None) -> None:
        """Move to another state; None when the object is gone."""
        with self._lock:
            if state == self._state:
                return
            if self._state is not None:
                self._gauges[self._state].dec()
            if state is not None:
                self._gauges[state].inc()
            self._state = state
