"""Timeline of a scenario: outcomes of its requests, and actions, by second. Knows neither services nor pictures."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from loadtest import generator
from loadtest.generator import Seen

Scored = Literal["full", "encoded", "cached", "category_prior", "prior"]
Five = Literal["late", "not_ready", "error"]
Unanswered = Literal["lost", "unanswered", "refused"]
Kind = Scored | Five | Unanswered | Literal["busy", "invalid"]
"""Outcome of a request: a reply by its worst rung, a refusal by its status, or none."""
SCORED: tuple[Scored, ...] = get_args(Scored)
DEGRADED = SCORED[1:]
UNANSWERED: tuple[Unanswered, ...] = get_args(Unanswered)
FIVES: tuple[Five, ...] = get_args(Five)
"""Replies with 504, 503 and any other 5xx."""
_STATUSES: Mapping[int, Kind] = {
    429: "busy",
    504: "late",
    503: "not_ready",
    generator.LOST: "lost",
    generator.UNANSWERED: "unanswered",
    generator.REFUSED: "refused",
}


class Sample(NamedTuple):
    """One request: the second of the scenario at which it was due, and its latency from then."""

    due_s: float
    took_ms: float
    kind: Kind

    @property
    def over_s(self) -> float:
        """When it was answered."""
        return self.due_s + self.took_ms / 1e3


class Mark(NamedTuple):
    """An action, at a second of the scenario."""

    at_s: float
    what: str


@dataclass
class ScenarioTimeline:
    """Samples and marks of one scenario; `levels` are other series by name: seconds and values."""

    samples: list[Sample] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    levels: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """Return the samples of requests due in this span."""
        return [sample for sample in self.samples if start_s <= sample.due_s < end_s]

    @property
    def broken_s(self) -> float:
        """The second of the first mark."""
        return self.marks[0].at_s

    @property
    def mended_s(self) -> float:
        """The second of the last mark."""
        return self.marks[-1].at_s

    @property
    def end_s(self) -> float:
        """The time of the last event."""
        return max([sample.over_s for sample in self.samples] + [mark.at_s for mark in self.marks], default=0.0)

    def then(self, other: "ScenarioTimeline", at_s: float) -> "ScenarioTimeline":
        """Append another timeline that began at that second."""
        return ScenarioTimeline(
            self.samples + [sample._replace(due_s=sample.due_s + at_s) for sample in other.samples],
            self.marks + [mark._replace(at_s=mark.at_s + at_s) for mark in other.marks],
            {**self.levels, **other.levels},
        )

    def last_s(self, kinds: Iterable[Kind]) -> float:
        """Return when the last request with one of these outcomes was due; -inf if there was none."""
        wanted = set(kinds)
        return max((sample.due_s for sample in self.samples if sample.kind in wanted), default=-np.inf)

    def as_json(self, bins: int = 160) -> dict[str, Any]:
        """Return data for a picture: by interval, counts of outcomes, and latency percentiles of scored requests."""
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


def percentile_ms(samples: Sequence[Sample], percent: float) -> float | None:
    """Return a latency percentile of the scored requests; None without any."""
    return percentile([sample.took_ms for sample in samples if sample.kind in SCORED], percent)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile; None without values."""
    return round(float(np.percentile(values, percent)), 3) if values else None


def count(samples: Iterable[Sample], *kinds: Kind) -> int:
    """Return the number of these outcomes."""
    return sum(sample.kind in kinds for sample in samples)


def kind_of(seen: Seen) -> Kind:
    """Return the outcome of a request."""
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
