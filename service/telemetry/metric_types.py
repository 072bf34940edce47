"""Metric types that Prometheus's client lacks: children that exist from the start, families that are read together.

For any thread. Does not know which families exist (`metrics`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Values = Mapping[Any, float]
"""Of a family's children, by their labels: a tuple, or a text if there is one."""
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


class ReadFamily(Collector):
    """A gauge or counter whose children are read together on each scrape, in the scraping thread."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry, is_counter: bool = False
    ) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(labels)
        self._form = CounterMetricFamily if is_counter else GaugeMetricFamily
        self.read: Callable[[], Values] = dict
        registry.register(self)

    def replace(self, values: Values) -> None:
        """Set these children and remove all others."""
        held = dict(values)
        self.read = lambda: held

    def collect(self) -> Iterable[Metric]:
        family = self._form(self._name, self._text, labels=self._labelnames)
        for labels, value in self.read().items():
            family.add_metric((labels,) if isinstance(labels, str) else labels, value)
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
