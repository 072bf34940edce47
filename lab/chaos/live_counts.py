"""Replays a dataset's test period over HTTP, with the export's state and with live states, of events that become known
at once or after a delay. Live states must reach the offline result of each delay; those known at once must be better
than the export's.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.benchmark.collm import prepare
from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.replayed_period import Floats, Period, ReplayedMoment, TrainedFolders, offline_scores, period_of
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import ScenarioTimeline
from loadtest.http_client import ServiceConnection
from loadtest.processes import msd_output
from msd.bootstrap import interval, resample_metrics
from msd.contract.bundle import MANIFEST
from msd.dataset.config import CONFIG_FILE
from msd.metrics import roc_auc
from service.limits import MAX_EVENTS

DEMO = Path("runs/demo")
# Of feedback (s): at once, ten minutes, a day.
_DELAYS_S = (0, 600, 86_400)
_TOLERANCE = 1e-3
# A dataset's events may be days apart, and nothing happened between them.
_LAG_S = 1e9
_POINTS = 80
_DEADLINE_MS = 60_000


class LiveScores(NamedTuple):
    """Scores [n], and numbers of new and duplicate events."""

    scores: Floats
    accepted: int
    duplicates: int


def live_counts(run: Run) -> None:
    """Test rows are scored; all events are sent, as soon as they are known."""
    made = trained(run)
    period = period_of(made.dataset, made.bundle, run.plan.live_rows)
    frozen = _replayed(run, period, bundle=made.bundle).scores
    if not period.is_after:
        # This export's rows include some later events.
        made = made._replace(bundle=bare_bundle(made.bundle, run.folder / "bare", period.before))
    labels, events = period.labels, sum(len(moment.events) for moment in period.moments)
    scores = {"frozen": frozen}
    for delay_s in _DELAYS_S:
        name = f"live_{delay_s}_s"
        states = run.folder / f"states-{delay_s}"
        live = _replayed(run, period, delay_s, bundle=made.bundle, live="on", live_lag_seconds=_LAG_S, state_dir=states)
        scores[name] = live.scores
        run.check(f"{name}: every event is counted once", (live.accepted, live.duplicates) == (events, 0))
        if made.student.is_dir() and made.model.is_dir():
            run.hear(f"scoring offline, delay {delay_s} s")
            offline = offline_scores(made, run.plan.live_rows, delay_s)
            auc = roc_auc(labels, offline)
            run.figures |= {
                f"{name}_auc_offline": round(auc, 4),
                f"{name}_max_abs_diff": float(np.abs(live.scores - offline).max()),
            }
            is_equal = abs(auc - roc_auc(labels, live.scores)) <= _TOLERANCE
            run.check(f"{name}: the AUC over HTTP is the one offline, to .001", is_equal)
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


def replay_moments(
    url: str,
    moments: Iterable[ReplayedMoment],
    count: int,
    progress: Callable[[int], None],
    delay_s: float | None = None,
) -> LiveScores:
    """Score `count` rows in the moments' order. Before a request, send all events that happened more than `delay_s`
    earlier; at the end, send the others. None: send no events. Raises ClientError for the first invalid reply."""
    scores = np.full(count, np.nan)
    accepted = duplicates = 0
    waiting: list[dict[str, Any]] = []
    with ServiceConnection(url, timeout=60.0) as client:

        def send_events(before: float) -> None:
            """As late as possible, and in large batches."""
            nonlocal accepted, duplicates
            known = bisect_left(waiting, before, key=itemgetter("at"))
            for start in range(0, known, MAX_EVENTS):
                batch = waiting[start : min(start + MAX_EVENTS, known)]
                reply = client.post("/v1/events", json.dumps({"events": batch}).encode())
                reply.check(202)
                counts = json.loads(reply.body)
                accepted, duplicates = accepted + counts["accepted"], duplicates + counts["duplicates"]
            del waiting[:known]

        for moment in moments:
            if moment.asked:
                send_events(moment.at - (delay_s or 0.0))
            for asked in moment.asked:
                reply = json.loads(client.scored(json.dumps(asked.request).encode()).body)
                scores[asked.places] = reply["candidates"]["pctr"]
            if delay_s is not None:
                waiting += moment.events
            progress(moment.rows)
        send_events(np.inf)
    return LiveScores(scores, accepted, duplicates)


def trained(run: Run) -> TrainedFolders:
    """Return what was trained on the named data, otherwise on the demo's. Raises Unable if there is neither."""
    folder = run.data or DEMO
    if (folder / "train.parquet").is_file():
        return _made(run, folder)
    found = TrainedFolders(
        folder / "dataset", folder / "student", folder / "models" / "with-semantics", folder / "bundle"
    )
    if not ((found.dataset / CONFIG_FILE).is_file() and (found.bundle / MANIFEST).is_file()):
        raise Unable(
            f"{folder} has no dataset with a bundle that was trained on it: run `make demo` first, or name the CoLLM"
            " benchmark's files by DATA (--dataset)"
        )
    return found


def _made(run: Run, data: Path) -> TrainedFolders:
    """Train on a benchmark's raw files, without semantics, which takes minutes."""
    work = run.kept / "collm-ml-1m"
    folders = prepare(data, work, run.heard)
    student, model, bundle = work / "student", work / "model", work / "bundle"
    steps: Sequence[tuple[str | Path, ...]] = (
        ("distill", folders.dataset, folders.knowledge, student),
        ("train", folders.dataset, model, "--no-semantics"),
        ("export", folders.dataset, folders.knowledge, student, model, bundle),
    )
    for place, step in enumerate(steps):
        run.hear(f"msd {step[0]}", place, len(steps))
        msd_output(*map(str, step))
    return TrainedFolders(folders.dataset, student, model, bundle)


def _replayed(
    run: Run,
    period: Period,
    delay_s: float | None = None,
    **settings: Any,  # noqa: ANN401 - of any kind
) -> LiveScores:
    rows, done = sum(moment.rows for moment in period.moments), 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        run.hear("replaying without events" if delay_s is None else f"replaying, delay {delay_s} s", done, rows)

    with run.service(deadline_ms=_DEADLINE_MS, **settings) as service:
        return replay_moments(service.url, period.moments, len(period.labels), progress, delay_s)


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """Return the AUC of the first rows, by their number."""
    counts = np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)).tolist()
    return [
        (float(count), round(roc_auc(labels[:count], scores[:count]), 4))
        for count in counts
        if 0 < labels[:count].sum() < count
    ]
