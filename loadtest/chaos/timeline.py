"""What came of the requests of a scenario, and what was done to the service meanwhile, by the second.

Knows neither services nor pictures.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from loadtest import generator
from loadtest.generator import Seen

Kind = Literal[
    "full",
    "encoded",
    "cached",
    "category_prior",
    "prior",
    "busy",
    "late",
    "not_ready",
    "error",
    "invalid",
    "lost",
    "unanswered",
    "refused",
]
"""What a request got: a reply by the worst rung in it, a refusal by its status, or none."""
SCORED: tuple[Kind, ...] = ("full", "encoded", "cached", "category_prior", "prior")
DEGRADED: tuple[Kind, ...] = SCORED[1:]
UNANSWERED: tuple[Kind, ...] = ("lost", "unanswered", "refused")
FIVES: tuple[Kind, ...] = ("late", "not_ready", "error")
"""Replies of 504, 503 and any other status from 500 on."""
_STATUSES: Mapping[int, Kind] = {
    429: "busy",
    504: "late",
    503: "not_ready",
    generator.LOST: "lost",
    generator.UNANSWERED: "unanswered",
    generator.REFUSED: "refused",
}


class Sample(NamedTuple):
    """One request: the second of the scenario at which it was due, and how long after that what came of it came."""

    due_s: float
    took_ms: float
    kind: Kind

    @property
    def over_s(self) -> float:
        """When it was over."""
        return self.due_s + self.took_ms / 1e3


class Mark(NamedTuple):
    """Something that was done, at a second of the scenario."""

    at_s: float
    what: str


@dataclass
class Timeline:
    """The samples and marks of one scenario; `levels` are other numbers over time, by name: seconds and values."""

    samples: list[Sample] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    levels: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """The samples of requests that were due then."""
        return [sample for sample in self.samples if start_s <= sample.due_s < end_s]

    @property
    def end_s(self) -> float:
        """When the last of it was."""
        return max([sample.over_s for sample in self.samples] + [mark.at_s for mark in self.marks], default=0.0)

    def then(self, other: "Timeline", at_s: float) -> "Timeline":
        """This one, and another that began at that second of it."""
        return Timeline(
            self.samples + [sample._replace(due_s=sample.due_s + at_s) for sample in other.samples],
            self.marks + [mark._replace(at_s=mark.at_s + at_s) for mark in other.marks],
            {**self.levels, **other.levels},
        )

    def last_s(self, kinds: Iterable[Kind]) -> float:
        """When the last request that got one of these was due; -inf if there was none."""
        wanted = set(kinds)
        return max((sample.due_s for sample in self.samples if sample.kind in wanted), default=-np.inf)

    def as_json(self, bins: int = 160) -> dict[str, Any]:
        """For a picture: by stretch of time how many got what, and percentiles of the latency of those scored."""
        end = max([sample.due_s for sample in self.samples] + [mark.at_s for mark in self.marks] + [1e-3])
        width = end / bins
        stretches: list[list[Sample]] = [[] for _ in range(bins)]
        for sample in self.samples:
            stretches[min(bins - 1, int(sample.due_s / width))].append(sample)
        return {
            "bins": [_stretch(place * width, width, samples) for place, samples in enumerate(stretches) if samples],
            "marks": [[round(mark.at_s, 3), mark.what] for mark in self.marks],
            "levels": self.levels,
        }


def percentile_ms(samples: Sequence[Sample], percent: float, kinds: Iterable[Kind] = SCORED) -> float | None:
    """Of the latency of those that got one of these; None of nothing."""
    wanted = set(kinds)
    return percentile([sample.took_ms for sample in samples if sample.kind in wanted], percent)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Of any values; None of nothing."""
    return round(float(np.percentile(values, percent)), 3) if values else None


def count(samples: Iterable[Sample], *kinds: Kind) -> int:
    """How many got one of these."""
    return sum(sample.kind in kinds for sample in samples)


def kind_of(seen: Seen) -> Kind:
    """What a request got."""
    if seen.status != 200:
        return _STATUSES.get(seen.status, "error" if seen.status >= 500 else "invalid")
    if b'"degraded"' not in seen.body:
        return "full"
    degraded = json.loads(seen.body).get("degraded", {})
    rungs = set(degraded.get("candidates", {}).values())
    if degraded.get("user"):
        rungs.add("cached" if degraded["user"] == "cached" else "prior")
    worst = next((kind for kind in reversed(SCORED) if kind in rungs), None)
    return worst or "full"


def _stretch(start_s: float, width: float, samples: Sequence[Sample]) -> dict[str, Any]:
    counts = Counter(sample.kind for sample in samples)
    percentiles = {f"p{percent}_ms": percentile_ms(samples, percent) for percent in (50, 99)}
    return {"at_s": round(start_s, 3), "width_s": round(width, 4), "kinds": dict(counts), **percentiles}
