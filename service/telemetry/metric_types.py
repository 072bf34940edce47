"""Metric types that Prometheus's client lacks: children that exist from the start, gauges that are set together,
counters kept elsewhere.

For any thread. Does not know which families exist (`metrics`).
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
F = TypeVar("F", bound=MetricWrapperBase)
K = TypeVar("K", bound=str | int)


class Children(dict[K, F]):
    """The children of a family with one label, by its value. An unexpected value gets a child on first use, so that no
    request fails."""

    def __init__(self, family: F, values: Iterable[K]) -> None:
        super().__init__({value: family.labels(str(value)) for value in values})
        self._family = family

    def __missing__(self, value: K) -> F:
        child = self[value] = self._family.labels(str(value))
        return child


class GaugeSet(Collector):
    """A gauge whose children are replaced together: a scrape sees all the old ones or all the new ones."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(labels)
        self._values: Mapping[Labels, float] = {}
        registry.register(self)

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Set these children and remove all others."""
        self._values = dict(values)

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labelnames)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class ReadCounter(Collector):
    """A counter with one label that is kept elsewhere and read on each scrape."""

    def __init__(self, name: str, text: str, label: str, values: Iterable[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labelnames = name, text, (label,)
        self.read: Callable[[], Mapping[str, float]] = lambda: dict.fromkeys(values, 0.0)
        """Returns the count of each value."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labelnames)
        for value, count in self.read().items():
            family.add_metric((value,), count)
        yield family


class Merged(Collector):
    """Has no family, but merges what is counted elsewhere into those registered after it, on each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.merge: Callable[[], object] = lambda: None
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        self.merge()
        return ()


def bounds_of(histogram: Histogram) -> tuple[float, ...]:
    """Return a histogram's finite bounds."""
    return tuple(histogram._upper_bounds[:-1])


def add_counts(histogram: Histogram, counts: Sequence[int], total: float) -> None:
    """Add values [number within each bound and above the one before] and their sum to a histogram."""
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)


class Standing:
    """The state of one object, in a gauge that counts objects per state."""

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
