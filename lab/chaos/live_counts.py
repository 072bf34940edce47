"""Replays a dataset's test period over HTTP, with live counts and with those of the export. Live counts must reach the
offline result and be better.
"""

import shutil
from typing import Any

import numpy as np

from lab.chaos.live_replay import LiveScores, replay_moments
from lab.chaos.replayed_period import Floats, Period, offline_scores, period_of
from lab.chaos.scenario import Check, Figure, Scenario, ScenarioResult
from lab.chaos.timeline import ScenarioTimeline
from lab.chaos.trained import TrainedFolders, trained
from model_export.bare_bundle import bare_bundle
from msd.bootstrap import interval, resample_metrics
from msd.metrics import roc_auc

_TOLERANCE = 1e-3
# A dataset's events may be days apart, and nothing happened between them.
_LAG_S = 1e9
_POINTS = 80
_DEADLINE_MS = 60_000


class ReplayedLiveCounts(Scenario):
    """Test rows are scored; all events are sent."""

    name = "live-counts"
    title = "A test period, scored and told moment by moment"
    told = ("live_auc", "frozen_auc")

    def run(self) -> ScenarioResult:
        made = trained(self.environment)
        period = period_of(made.dataset, made.bundle, self.plan.live_rows)
        bundle, bare, states = made.bundle, self.folder / "bare", self.folder / "states"
        for folder in (bare, states):
            shutil.rmtree(folder, ignore_errors=True)
        if not period.is_after:
            # This export's rows include some later events.
            bundle = bare_bundle(bundle, bare, period.before)
        frozen = self._replayed(period, "frozen", bundle=made.bundle)
        live = self._replayed(period, "live", bundle=bundle, live="on", live_lag_seconds=_LAG_S, state_dir=states)
        events = sum(len(moment.events) for moment in period.moments)
        ends = self._gain(period, live, frozen)
        scores = {"live": live.scores, "frozen": frozen.scores}
        compared, checks = self._compared(made, period, live)
        figures = {
            **{f"{name}_auc": round(roc_auc(period.labels, one), 4) for name, one in scores.items()},
            **{f"live_gain_{end}": ends and round(ends[place], 4) for place, end in enumerate(("low", "high"))},
            "live_rows": len(period.labels),
            **compared,
            "live_events": events,
        }
        # A property of model and data, not of the service, so no reason for the command to fail.
        gain = Check(
            "their gain in AUC is above 0, with 95 % of resamples of the users", bool(ends and ends[0] > 0), True
        )
        counted = Check("every event is counted once", (live.accepted, live.duplicates) == (events, 0))
        changed = Check("live counts change the scores", bool((live.scores != frozen.scores).any()))
        levels = {f"AUC, {name}": _so_far(period.labels, one) for name, one in scores.items()}
        return ScenarioResult(figures, (counted, changed, *checks, gain), ScenarioTimeline(levels=levels))

    def _replayed(self, period: Period, counts: str, **settings: Any) -> LiveScores:  # noqa: ANN401 - of any kind
        rows, done = sum(moment.rows for moment in period.moments), 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            self.hear(f"{counts} counts", done, rows)

        with self.environment.service(self.name, deadline_ms=_DEADLINE_MS, **settings) as service:
            return replay_moments(service.url, period.moments, len(period.labels), counts == "live", progress)

    def _gain(self, period: Period, live: LiveScores, frozen: LiveScores) -> tuple[float, float] | None:
        """Return the gain in AUC, with the 95 % interval over resampled users."""
        both = np.stack([live.scores, frozen.scores])
        drawn = resample_metrics(period.labels, both, period.users, self.plan.resamples)
        return interval(drawn.auc[0] - drawn.auc[1])

    def _compared(
        self, made: TrainedFolders, period: Period, live: LiveScores
    ) -> tuple[dict[str, Figure], tuple[Check, ...]]:
        """Compare with the model offline, if there is one."""
        if not (made.student.is_dir() and made.model.is_dir()):
            return {}, ()
        self.hear("what the model says offline")
        offline = offline_scores(made.dataset, made.student, made.model, self.plan.live_rows)
        auc, over_http = roc_auc(period.labels, offline), roc_auc(period.labels, live.scores)
        return (
            {"live_auc_offline": round(auc, 4), "live_max_abs_diff": float(np.abs(live.scores - offline).max())},
            (Check("the AUC over HTTP is the one offline, to .001", abs(auc - over_http) <= _TOLERANCE),),
        )


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """Return the AUC of the first rows, by their number."""
    counts = np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)).tolist()
    return [
        (float(count), round(roc_auc(labels[:count], scores[:count]), 4))
        for count in counts
        if 0 < labels[:count].sum() < count
    ]
