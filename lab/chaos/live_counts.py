"""Replays a dataset's test period over HTTP, with the export's state and with live states, of events that become known
at once or after a delay. Live states must reach the offline result of each delay; those known at once must be better
than the export's.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.replayed_period import (
    Floats,
    LiveScores,
    Period,
    TrainedFolders,
    offline_scores,
    period_of,
    replay_moments,
)
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import ScenarioTimeline
from msd.bootstrap import interval, resample_metrics
from msd.contract.bundle import MANIFEST
from msd.dataset.config import CONFIG_FILE
from msd.metrics import roc_auc

# Of feedback (s): at once, ten minutes, a day.
_DELAYS_S = (0, 600, 86_400)
_TOLERANCE = 1e-3
# A dataset's events may be days apart, and nothing happened between them.
_LAG_S = 1e9
_POINTS = 80
_DEADLINE_MS = 60_000


def live_counts(run: Run) -> None:
    """Test rows are scored; all events are sent, as soon as they are known."""
    made = _trained(run)
    period = period_of(made.dataset, made.bundle, run.plan.live_rows)
    export = made.bundle
    if not period.is_after:
        # This export's rows include some later events.
        made = made._replace(bundle=bare_bundle(made.bundle, run.folder / "bare", period.before))
    has_model = made.student.is_dir() and made.model.is_dir()
    # In a process of its own, beside the replays: neither is timed.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        rows, delays = run.plan.live_rows, _DELAYS_S if has_model else ()
        offline = {delay_s: pool.submit(offline_scores, made, rows, delay_s) for delay_s in delays}
        frozen = _replayed(run, period, bundle=export).scores
        scores = {"frozen": frozen, **_live_scores(run, period, made.bundle, offline)}
    labels, events = period.labels, sum(len(moment.events) for moment in period.moments)
    at_once = scores[f"live_{_DELAYS_S[0]}_s"]
    # The gain in AUC, with the 95 % interval over resampled users.
    drawn = resample_metrics(labels, np.stack([at_once, frozen]), period.users, run.plan.resamples)
    ends = interval(drawn.auc[0] - drawn.auc[1])
    run.figures |= {f"{name}_auc": round(roc_auc(labels, found), 4) for name, found in scores.items()}
    run.figures |= {f"gain_{end}": ends and round(ends[place], 4) for place, end in enumerate(("low", "high"))}
    run.figures |= {"rows": len(labels), "events": events}
    run.timeline = ScenarioTimeline(levels={f"AUC, {name}": _so_far(labels, found) for name, found in scores.items()})
    run.check("live counts change the scores", bool((at_once != frozen).any()))
    # A property of model and data, not of the service, so no reason for the command to fail.
    run.check("95 % of resamples of the users gain in AUC", bool(ends and ends[0] > 0), True)


def _live_scores(run: Run, period: Period, bundle: Path, offline: Mapping[int, "Future[Floats]"]) -> dict[str, Floats]:
    """Return the scores with live states of each delay, by name, and check them."""
    labels, events = period.labels, sum(len(moment.events) for moment in period.moments)
    scores = {}
    for delay_s in _DELAYS_S:
        name = f"live_{delay_s}_s"
        states = run.folder / f"states-{delay_s}"
        live = _replayed(run, period, delay_s, bundle=bundle, live="on", live_lag_seconds=_LAG_S, state_dir=states)
        scores[name] = live.scores
        run.check(f"{name}: every event is counted once", (live.accepted, live.duplicates) == (events, 0))
        if delay_s in offline:
            run.hear(f"scoring offline, delay {delay_s} s")
            expected = offline[delay_s].result()
            auc = roc_auc(labels, expected)
            run.figures |= {
                f"{name}_auc_offline": round(auc, 4),
                f"{name}_max_abs_diff": float(np.abs(live.scores - expected).max()),
            }
            is_equal = abs(auc - roc_auc(labels, live.scores)) <= _TOLERANCE
            run.check(f"{name}: the AUC over HTTP is the one offline, to .001", is_equal)
    return scores


def _trained(run: Run) -> TrainedFolders:
    """Return the folders of the demo to which the run's bundle with an encoder belongs. Raises Unable without them."""
    folder = run.encoding.parent
    made = TrainedFolders(folder / "dataset", folder / "student", folder / "models" / "with-semantics", run.encoding)
    if not (made.dataset / CONFIG_FILE).is_file() or not (made.bundle / MANIFEST).is_file():
        raise Unable(f"{folder} has no dataset with a bundle that was trained on it: run `make demo` first")
    return made


def _replayed(
    run: Run,
    period: Period,
    delay_s: float | None = None,
    **settings: Any,  # noqa: ANN401 - of any kind
) -> LiveScores:
    run.hear("replaying without events" if delay_s is None else f"replaying, delay {delay_s} s")
    with run.service(deadline_ms=_DEADLINE_MS, **settings) as service:
        return replay_moments(service.url, period.moments, len(period.labels), delay_s)


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """Return the AUC of the first rows, by their number."""
    counts = np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)).tolist()
    return [
        (float(count), round(roc_auc(labels[:count], scores[:count]), 4))
        for count in counts
        if 0 < labels[:count].sum() < count
    ]
