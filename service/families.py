"""Counters, gauges and histograms whose values lie in shared memory, so that any worker can tell of all.

A change costs an addition: no lock, no file. Knows Prometheus's families, not which ones there are (`metrics`).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.shared import ROW_CELLS, SharedNumbers

Cells: TypeAlias = "memoryview[float]"
Merge = Literal["sum", "max"]
_MERGES: Mapping[Merge, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max}


class Counter:
    """A number that only rises, over restarts of its worker too."""

    __slots__ = ("_cells", "_place")

    def __init__(self, cells: Cells, place: int) -> None:
        self._cells, self._place = cells, place

    def inc(self, amount: float = 1.0) -> None:
        """Adds."""
        self._cells[self._place] += amount


class Gauge:
    """A number of now. Its worker's end makes it 0."""

    __slots__ = ("_cells", "place")

    def __init__(self, cells: Cells, place: int) -> None:
        self._cells, self.place = cells, place

    def set(self, value: float) -> None:
        """Replaces."""
        self._cells[self.place] = value

    def add(self, amount: float) -> None:
        """Changes it by so much."""
        self._cells[self.place] += amount


class Standing:
    """Which one of some states something is in, told by gauges that count what is in each."""

    __slots__ = ("_gauges", "_state")

    def __init__(self, gauges: Mapping[str, Gauge], state: str) -> None:
        self._gauges = gauges
        self._state: str | None = state
        gauges[state].add(1.0)

    def set(self, state: str | None) -> None:
        """Moves to a state; None when there is nothing any more that could be in one."""
        if state != self._state:
            if self._state is not None:
                self._gauges[self._state].add(-1.0)
            if state is not None:
                self._gauges[state].add(1.0)
            self._state = state


class Histogram:
    """How often a value lay below each of some bounds, and the sum of all values."""

    __slots__ = ("_bounds", "_cells", "_place", "_sum")

    def __init__(self, cells: Cells, place: int, bounds: Sequence[float]) -> None:
        self._cells, self._place, self._bounds = cells, place, bounds
        self._sum = place + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Counts one value."""
        cells = self._cells
        cells[self._place + bisect_left(self._bounds, value)] += 1.0
        cells[self._sum] += value

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Counts many, [n]."""
        cells = self._cells
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        for place, count in enumerate(counts.tolist(), self._place):
            cells[place] += count
        cells[self._sum] += float(values.sum())


class LateGauges:
    """Gauges by the names of a list that is known only later, and may change. A row says by a mark, which is not 0, for
    which list its numbers are; those of another list are not told."""

    __slots__ = ("_families", "_label", "_mark", "_most", "_name", "_names", "_own", "_place", "_text")

    def __init__(self, families: "Families", own: Cells, place: int, most: int, told: tuple[str, str, str]) -> None:
        self._families, self._own, self._place, self._most = families, own, place, most
        self._name, self._text, self._label = told
        self._mark = 0
        self._names: tuple[str, ...] = ()

    def know(self, mark: int, names: Iterable[str]) -> None:
        """From now on numbers under this mark are told, by these names; those beyond the most are left out."""
        self._mark, self._names = mark, tuple(names)[: self._most]

    def set(self, mark: int, numbers: Sequence[float]) -> None:
        """Replaces, in the list's order; what is NaN is not known."""
        kept = numbers[: self._most]
        self._own[self._place] = 0.0
        for step, number in enumerate(kept, start=1):
            self._own[self._place + step] = number
        self._own[self._place] = mark

    def tell(self) -> Metric:
        """The family, as far as it is known."""
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for row in self._families.numbers.rows if self._mark else ():
            if row[self._place] == self._mark:
                for step, name in enumerate(self._names, start=1):
                    if not math.isnan(row[self._place + step]):
                        family.add_metric([name], row[self._place + step])
        return family


class Families(Collector):
    """The families of one process, in its `row` of the numbers; what it collects is of all rows.

    Every process of a service makes the same families in the same order, so that their cells lie in the same places.
    """

    def __init__(self, numbers: SharedNumbers, row: int) -> None:
        self.numbers = numbers
        self._own = numbers.rows[row]
        self._used = 0
        self._gauges: list[int] = []
        self._tellers: list[Callable[[], Metric]] = []

    def counters(self, name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
        """A counter for each value of a label."""
        places = {value: self._take(1) for value in values}

        def tell() -> Metric:
            family = CounterMetricFamily(name, text, labels=[label] if label else [])
            for value, place in places.items():
                family.add_metric([value] if label else [], sum(self.over_rows(place)))
            return family

        self._tellers.append(tell)
        return {value: Counter(self._own, place) for value, place in places.items()}

    def counter(self, name: str, text: str) -> Counter:
        """A counter without a label."""
        return self.counters(name, text, "", ("",))[""]

    def gauge(self, name: str, text: str, merge: Merge = "sum") -> Gauge:
        """A gauge; that of the service is the workers' sum, or the greatest."""
        place = self._take(1)
        self._gauges.append(place)
        self.tell(lambda: GaugeMetricFamily(name, text, _MERGES[merge](self.over_rows(place))))
        return Gauge(self._own, place)

    def gauges(self, name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Gauge]:
        """A gauge for each value of a label; that of the service is the workers' sum."""
        places = {value: self._take(1) for value in values}
        self._gauges.extend(places.values())

        def tell() -> Metric:
            family = GaugeMetricFamily(name, text, labels=[label])
            for value, place in places.items():
                family.add_metric([value], sum(self.over_rows(place)))
            return family

        self.tell(tell)
        return {value: Gauge(self._own, place) for value, place in places.items()}

    def late_gauges(self, name: str, text: str, label: str, most: int) -> LateGauges:
        """Up to so many gauges whose label's values are known only later. One row alone is to set them."""
        place = self._take(1 + most)
        self._gauges.append(place)
        made = LateGauges(self, self._own, place, most, (name, text, label))
        self.tell(made.tell)
        return made

    def histograms(
        self, name: str, text: str, label: str, values: Iterable[str], bounds: Sequence[float]
    ) -> dict[str, Histogram]:
        """A histogram for each value of a label."""
        places = {value: self._take(len(bounds) + 2) for value in values}
        names = [*map(floatToGoString, bounds), "+Inf"]

        def tell() -> Metric:
            family = HistogramMetricFamily(name, text, labels=[label] if label else [])
            for value, place in places.items():
                counts = accumulate(sum(self.over_rows(place + step)) for step in range(len(names)))
                total = sum(self.over_rows(place + len(names)))
                family.add_metric([value] if label else [], list(zip(names, counts, strict=True)), total)
            return family

        self._tellers.append(tell)
        return {value: Histogram(self._own, place, bounds) for value, place in places.items()}

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        """A histogram without a label."""
        return self.histograms(name, text, "", ("",), bounds)[""]

    def cell(self) -> int:
        """A place in every row for a number that is no family of its own."""
        return self._take(1)

    def tell(self, teller: Callable[[], Metric]) -> None:
        """Adds a family that is made when it is asked for."""
        self._tellers.append(teller)

    def over_rows(self, place: int) -> list[float]:
        """What lies in a place, by row."""
        return [row[place] for row in self.numbers.rows]

    def forget_gauges(self, row: int) -> None:
        """Of a worker that ended."""
        for place in self._gauges:
            self.numbers.rows[row][place] = 0.0

    def collect(self) -> Iterable[Metric]:
        """All families, over all rows."""
        return [tell() for tell in self._tellers]

    def _take(self, cells: int) -> int:
        place = self._used
        self._used += cells
        assert self._used <= ROW_CELLS, "more families than a row has cells"
        return place
