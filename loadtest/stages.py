"""Stage times of our service from its metrics. Knows no client."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from loadtest.http_client import ClientError, ServiceConnection

STAGES = ("parse", "rows", "queue", "run", "reply")
_SAMPLE = re.compile(r'^msd_(stage|request)_seconds_(sum|count)(?:\{stage="([a-z]+)"\})? (\S+)$', re.MULTILINE)
_WHOLE = "request"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds and counts by stage and for whole requests, since the start or between two moments."""

    seconds: Mapping[str, float]
    counts: Mapping[str, float]

    def since(self, before: Self) -> "StageSeconds":
        """Return the difference to an earlier reading."""
        return StageSeconds(
            {name: value - before.seconds[name] for name, value in self.seconds.items()},
            {name: value - before.counts[name] for name, value in self.counts.items()},
        )

    def mean_ms(self, stage: str) -> float:
        """Return the mean of a stage, or of a whole request."""
        return 1e3 * self.seconds[stage] / self.counts[stage]

    def as_json(self, client_ms: float) -> dict[str, float]:
        """Return milliseconds by stage, the rest of the service's time, and the rest that only the client sees."""
        stages = {stage: self.mean_ms(stage) for stage in STAGES}
        whole = self.mean_ms(_WHOLE)
        told = {**stages, "http": whole - sum(stages.values()), "wire": client_ms - whole}
        return {name: round(value, 4) for name, value in told.items()}


def spent(url: str) -> StageSeconds:
    """Read the stage times from `/metrics`. Raises ClientError if they are missing."""
    text = _metrics(url)
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    for family, kind, stage, value in _SAMPLE.findall(text):
        if family == _WHOLE or stage:
            found[kind][stage or _WHOLE] = float(value)
    if any(missing := {*STAGES, _WHOLE} - one.keys() for one in found.values()):
        raise ClientError(f"{url}/metrics: says nothing of {', '.join(sorted(missing))}")
    return StageSeconds(found["sum"], found["count"])


def _metrics(url: str) -> str:
    with ServiceConnection(url) as client:
        return client.get("/metrics").body.decode("utf-8", "replace")
