"""The test period of a dataset is replayed over HTTP, with counts and histories kept live and with those of the export.
The one has to come to what the model comes to offline, and is to be the better.
"""

import shutil
from typing import Any

import numpy as np

from loadtest.chaos.bare_bundle import bare_bundle
from loadtest.chaos.environment import Environment
from loadtest.chaos.event_replay import Floats, Period, offline_scores, period_of
from loadtest.chaos.scenario import Check, Figure, Found, Scenario
from loadtest.chaos.timeline import Timeline
from loadtest.chaos.trained import Trained, trained
from loadtest.live_replay import Replayed, replay_moments
from msd.ranker.bootstrap import interval, resample_metrics
from msd.ranker.metrics import roc_auc

_NAME = "live-counts"
_TOLERANCE = 1e-3
# Events of a dataset may be days apart, and nothing happened between them.
_LAG_S = 1e9
_POINTS = 80
_DEADLINE_MS = 60_000


def _run(environment: Environment) -> Found:
    made = trained(environment)
    period = period_of(made.dataset, made.bundle, environment.plan.live_rows)
    bundle = made.bundle
    if not period.is_after:
        # The rows of this export know of some of what is to come.
        shutil.rmtree(environment.work / _NAME / "bare", ignore_errors=True)
        bundle = bare_bundle(bundle, environment.work / _NAME / "bare", period.before)
    states = environment.work / _NAME / "states"
    shutil.rmtree(states, ignore_errors=True)
    frozen = _replayed(environment, period, "frozen", bundle=made.bundle)
    live = _replayed(environment, period, "live", bundle=bundle, live="on", live_lag_seconds=_LAG_S, state_dir=states)
    events = sum(len(moment.events) for moment in period.moments)
    figures, low = _figures(environment, period, live, frozen)
    compared, checks = _compared(environment, made, period, live)
    return Found(
        {**figures, **compared, "live_events": events},
        (
            Check("every event is counted once", (live.accepted, live.duplicates) == (events, 0)),
            Check("live counts change the scores", bool((live.scores != frozen.scores).any())),
            *checks,
            # Of the model and the data, not of the service: so no reason for the command to fail.
            Check(
                "their gain in AUC is above 0, with 95 % of resamples of the users", low is not None and low > 0, True
            ),
        ),
        Timeline(
            levels={
                "AUC, live": _so_far(period.labels, live.scores),
                "AUC, frozen": _so_far(period.labels, frozen.scores),
            }
        ),
    )


def _replayed(environment: Environment, period: Period, counts: str, **settings: Any) -> Replayed:  # noqa: ANN401 - of any kind
    rows, done = sum(moment.rows for moment in period.moments), 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        environment.heard(f"{_NAME}: {counts} counts", done, rows)

    with environment.service(_NAME, deadline_ms=_DEADLINE_MS, **settings) as service:
        return replay_moments(service.url, period.moments, len(period.labels), counts == "live", progress)


def _figures(
    environment: Environment, period: Period, live: Replayed, frozen: Replayed
) -> tuple[dict[str, Figure], float | None]:
    """And the lower end of the gain."""
    both = np.stack([live.scores, frozen.scores])
    drawn = resample_metrics(period.labels, both, period.users, environment.plan.resamples)
    ends = interval(drawn.auc[0] - drawn.auc[1])
    figures: dict[str, Figure] = {
        "live_auc": round(roc_auc(period.labels, live.scores), 4),
        "frozen_auc": round(roc_auc(period.labels, frozen.scores), 4),
        "live_gain_low": ends and round(ends[0], 4),
        "live_gain_high": ends and round(ends[1], 4),
        "live_rows": len(period.labels),
    }
    return figures, ends and ends[0]


def _compared(
    environment: Environment, made: Trained, period: Period, live: Replayed
) -> tuple[dict[str, Figure], tuple[Check, ...]]:
    """With the model offline, where it is there."""
    if not (made.student.is_dir() and made.model.is_dir()):
        return {}, ()
    environment.heard(f"{_NAME}: what the model says offline", 0, 1)
    offline = offline_scores(made.dataset, made.student, made.model, environment.plan.live_rows)
    auc, over_http = roc_auc(period.labels, offline), roc_auc(period.labels, live.scores)
    return (
        {"live_auc_offline": round(auc, 4), "live_max_abs_diff": float(np.abs(live.scores - offline).max())},
        (Check("the AUC over HTTP is the one offline, to .001", abs(auc - over_http) <= _TOLERANCE),),
    )


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """The AUC of the first rows, by their number."""
    counts = np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)).tolist()
    return [
        (float(count), round(roc_auc(labels[:count], scores[:count]), 4))
        for count in counts
        if 0 < labels[:count].sum() < count
    ]


LIVE_COUNTS = Scenario(_NAME, "A test period, scored and told moment by moment", ("live_auc", "frozen_auc"), _run)
