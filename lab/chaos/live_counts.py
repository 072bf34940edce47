"""Replays a dataset's test period over HTTP, with live counts and with those of the export. Live counts must reach the
offline result and be better.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.benchmark.collm import prepare
from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.replayed_period import Floats, Period, ReplayedMoment, offline_scores, period_of
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
_TOLERANCE = 1e-3
# A dataset's events may be days apart, and nothing happened between them.
_LAG_S = 1e9
_POINTS = 80
_DEADLINE_MS = 60_000


class TrainedFolders(NamedTuple):
    """A dataset and what was trained on it. Student and model, needed only for comparison, may be missing."""

    dataset: Path
    student: Path
    model: Path
    bundle: Path


class LiveScores(NamedTuple):
    """Scores [n], and numbers of new and duplicate events."""

    scores: Floats
    accepted: int
    duplicates: int


def live_counts(run: Run) -> None:
    """Test rows are scored; all events are sent."""
    made = trained(run)
    period = period_of(made.dataset, made.bundle, run.plan.live_rows)
    bundle, bare, states = made.bundle, run.folder / "bare", run.folder / "states"
    for folder in (bare, states):
        shutil.rmtree(folder, ignore_errors=True)
    if not period.is_after:
        # This export's rows include some later events.
        bundle = bare_bundle(bundle, bare, period.before)
    frozen = _replayed(run, period, "frozen", bundle=made.bundle)
    live = _replayed(run, period, "live", bundle=bundle, live="on", live_lag_seconds=_LAG_S, state_dir=states)
    events = sum(len(moment.events) for moment in period.moments)
    both = np.stack([live.scores, frozen.scores])
    # The gain in AUC, with the 95 % interval over resampled users.
    drawn = resample_metrics(period.labels, both, period.users, run.plan.resamples)
    ends = interval(drawn.auc[0] - drawn.auc[1])
    scores = {"live": live.scores, "frozen": frozen.scores}
    run.figures |= {f"{name}_auc": round(roc_auc(period.labels, found), 4) for name, found in scores.items()}
    run.figures |= {f"gain_{end}": ends and round(ends[place], 4) for place, end in enumerate(("low", "high"))}
    run.figures |= {"rows": len(period.labels), "events": events}
    run.timeline = ScenarioTimeline(
        levels={f"AUC, {name}": _so_far(period.labels, found) for name, found in scores.items()}
    )
    run.check("every event is counted once", (live.accepted, live.duplicates) == (events, 0))
    run.check("live counts change the scores", bool((live.scores != frozen.scores).any()))
    if made.student.is_dir() and made.model.is_dir():
        run.hear("scoring offline")
        rows = run.plan.live_rows
        offline = offline_scores(made.dataset, made.student, made.model, rows, from_nothing=not period.is_after)
        auc = roc_auc(period.labels, offline)
        run.figures |= {"auc_offline": round(auc, 4), "max_abs_diff": float(np.abs(live.scores - offline).max())}
        is_equal = abs(auc - roc_auc(period.labels, live.scores)) <= _TOLERANCE
        run.check("the AUC over HTTP is the one offline, to .001", is_equal)
    # A property of model and data, not of the service, so no reason for the command to fail.
    run.check("95 % of resamples of the users gain in AUC", bool(ends and ends[0] > 0), True)


def replay_moments(
    url: str, moments: Iterable[ReplayedMoment], count: int, tells: bool, progress: Callable[[int], None]
) -> LiveScores:
    """Score `count` rows in the moments' order, the requests of a moment before its events; with `tells`, send each
    event in time. Raises ClientError for the first invalid reply."""
    scores = np.full(count, np.nan)
    accepted = duplicates = 0
    waiting: list[dict[str, Any]] = []
    with ServiceConnection(url, timeout=60.0) as client:

        def send_events() -> None:
            """As late as possible, and in large batches."""
            nonlocal accepted, duplicates
            for start in range(0, len(waiting), MAX_EVENTS):
                reply = client.post("/v1/events", json.dumps({"events": waiting[start : start + MAX_EVENTS]}).encode())
                reply.check(202)
                counts = json.loads(reply.body)
                accepted, duplicates = accepted + counts["accepted"], duplicates + counts["duplicates"]
            waiting.clear()

        for moment in moments:
            if moment.asked:
                send_events()
            for asked in moment.asked:
                reply = json.loads(client.scored(json.dumps(asked.request).encode()).body)
                scores[asked.places] = reply["candidates"]["pctr"]
            if tells:
                waiting += moment.events
            progress(moment.rows)
        send_events()
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
        ("distill", folders.dataset, folders.knowledge, student, "--epochs", "1"),
        ("train", folders.dataset, model, "--no-semantics"),
        ("export", folders.dataset, folders.knowledge, student, model, bundle),
    )
    for place, step in enumerate(steps):
        run.hear(f"msd {step[0]}", place, len(steps))
        msd_output(*map(str, step))
    return TrainedFolders(folders.dataset, student, model, bundle)


def _replayed(run: Run, period: Period, counts: str, **settings: Any) -> LiveScores:  # noqa: ANN401 - of any kind
    rows, done = sum(moment.rows for moment in period.moments), 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        run.hear(f"{counts} counts", done, rows)

    with run.service(deadline_ms=_DEADLINE_MS, **settings) as service:
        return replay_moments(service.url, period.moments, len(period.labels), counts == "live", progress)


def _so_far(labels: Floats, scores: Floats) -> list[tuple[float, float]]:
    """Return the AUC of the first rows, by their number."""
    counts = np.unique(np.linspace(0, len(labels), _POINTS, dtype=np.int64)).tolist()
    return [
        (float(count), round(roc_auc(labels[:count], scores[:count]), 4))
        for count in counts
        if 0 < labels[:count].sum() < count
    ]
