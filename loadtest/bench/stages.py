"""What a service of ours says of its own time, and of what else it still does, from its metrics. Knows no client."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from loadtest.http_client import Client, ClientError

STAGES = ("parse", "rows", "queue", "run", "reply")
_SAMPLE = re.compile(r'^msd_(stage|request)_seconds_(sum|count)(?:\{stage="([a-z]+)"\})? (\S+)$', re.MULTILINE)
_WHOLE = "request"
_FILL = re.compile(r'^msd_fill_state\{state="(?:waiting|filling)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class StageSeconds:
    """Seconds and number, by stage and for whole requests, since a service started or between two moments."""

    seconds: Mapping[str, float]
    counts: Mapping[str, float]

    def since(self, before: Self) -> "StageSeconds":
        """What came after."""
        return StageSeconds(
            {name: value - before.seconds[name] for name, value in self.seconds.items()},
            {name: value - before.counts[name] for name, value in self.counts.items()},
        )

    @property
    def overhead_share(self) -> float:
        """The share of a request's time in the service that is not the model's run."""
        return 1 - self.seconds["run"] / self.seconds[_WHOLE]

    def mean_ms(self, stage: str) -> float:
        """Of a stage, or of a whole request."""
        return 1e3 * self.seconds[stage] / self.counts[stage]

    def as_json(self, client_ms: float) -> dict[str, float]:
        """Milliseconds of a request by stage, what is left of the service's, and what only the client sees."""
        stages = {stage: self.mean_ms(stage) for stage in STAGES}
        whole = self.mean_ms(_WHOLE)
        told = {**stages, "http": whole - sum(stages.values()), "wire": client_ms - whole}
        return {name: round(value, 4) for name, value in told.items()}


def is_filled(url: str) -> bool:
    """Whether no row store is still filling its cache, which takes CPU from what is measured."""
    return not any(float(stores) for stores in _FILL.findall(_metrics(url)))


def spent(url: str) -> StageSeconds:
    """Read from `/metrics`. Raises ClientError where that is not what a service of ours says."""
    text = _metrics(url)
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    for family, kind, stage, value in _SAMPLE.findall(text):
        if family == _WHOLE or stage:
            found[kind][stage or _WHOLE] = float(value)
    if any(missing := {*STAGES, _WHOLE} - one.keys() for one in found.values()):
        raise ClientError(f"{url}/metrics: says nothing of {', '.join(sorted(missing))}")
    return StageSeconds(found["sum"], found["count"])


def _metrics(url: str) -> str:
    with Client(url) as client:
        return client.get("/metrics").body.decode("utf-8", "replace")
