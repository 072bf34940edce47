"""Every request is logged before, while and after Redis is empty; then the log is scored again, to the bit."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lab.chaos.scenario import Check, Figure, UnderLoad
from lab.chaos.timeline import SCORED, count
from loadtest.generator import Target
from loadtest.processes import told

# Logging all rows of all requests costs more than scoring; the rest is for the log's writer.
_SHARE_OF_LOAD = 0.4
_MOST = 4_000


class ReplayedLog(UnderLoad):
    """Logged rows are fresh, stale and missing."""

    name = "log-replay"
    title = "What was logged is scored again"
    told = ("replay_mismatches",)
    in_redis = True
    replayed: Mapping[str, Any]

    def settings(self) -> Mapping[str, Any]:
        return {"log_dir": self.folder / "log", "log_sample": 1.0}

    def asked(self) -> Target:
        some = max(1, self.plan.candidates // 10)
        return self.environment.target(self.service.url, {some: 1.0, self.plan.candidates: 1.0})

    def rate(self, able: float) -> float:
        return _SHARE_OF_LOAD * super().rate(able)

    def disturb(self) -> None:
        self.redis.flush()
        self.load.mark("FLUSHALL")
        self.load.until(self.plan.steady_s + self.plan.broken_s / 2)
        self.redis.publish(self.environment.bundle)
        self.load.mark("rows published again")

    def after(self) -> None:
        self.service.terminate()
        self.service.wait_for_end()
        self.hear("scoring the log again")
        replay = ("replay", str(self.folder / "log"), "--bundle", str(self.environment.bundle))
        self.replayed = json.loads(told(*replay, "--limit", str(_MOST), "--json"))

    def named(self, **figures: Figure) -> dict[str, Figure]:
        return {f"replay_{name}": value for name, value in figures.items()}

    def figures(self) -> Mapping[str, Figure]:
        told = ("mismatches", "requests", "candidates", "exact", "max_abs_diff")
        scored = count(self.timeline.samples, *SCORED)
        return self.named(scored=scored, **{name: self.replayed[name] for name in told})

    def checks(self) -> Iterable[Check]:
        found = self.replayed
        yield Check("every logged score is reproduced to the bit", found["mismatches"] == 0)
        yield Check("all were compared to the bit", found["exact"] == found["requests"] > 0)
