"""A test period over HTTP with live state comes to what the model says offline with counts kept up to date."""

from pathlib import Path

import numpy as np
import pytest

from lab.chaos import run as chaos
from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.live_counts import live_counts, replay_moments
from lab.chaos.replayed_period import offline_scores, period_of
from msd.contract.bundle import open_bundle
from tests.model_export.conftest import Exported, Run, quiet
from tests.service.live import live_service

EVERY = 1_000_000


@pytest.fixture
def made(run: Run, exported: Exported, tmp_path: Path) -> Path:
    """What the commands leave, in the places where the scenario looks for it."""
    folder = tmp_path / "made"
    (folder / "models").mkdir(parents=True)
    for name, path in (
        ("dataset", run.dataset),
        ("student", run.student),
        ("models/with-semantics", run.semantic),
        ("bundle", exported.bundle.folder),
    ):
        (folder / name).symlink_to(path)
    return folder


def test_live_scores_equal_offline(made: Path, tmp_path: Path) -> None:
    """Valid and test come after all that the exported rows know of."""
    period = period_of(made / "dataset", made / "bundle", EVERY)
    assert period.is_after
    folder, plan = tmp_path / "chaos", chaos.ChaosPlan(workers=1)
    run = chaos.Run("live-counts", made / "bundle", folder, plan, lambda doing, done, total: None, data=made)
    live_counts(run)

    assert [check.what for check in run.checks if not check.holds and not check.is_timed] == [], run.figures
    assert run.figures["events"] == sum(len(moment.events) for moment in period.moments)
    # Vectors are rounded to fp16 in rows.
    assert run.figures["max_abs_diff"] == pytest.approx(0.0, abs=1e-3)
    assert run.figures["live_auc"] == pytest.approx(run.figures["auc_offline"], abs=1e-3)


def test_live_scores_from_nothing_equal_offline(run: Run, exported: Exported, tmp_path: Path) -> None:
    """And what is not told is not known: rows without counts and histories are scored as such."""
    period = period_of(run.dataset, exported.bundle.folder, EVERY, from_nothing=True)
    offline = offline_scores(run.dataset, run.student, run.semantic, EVERY)
    bare = bare_bundle(exported.bundle.folder, tmp_path / "bare", period.before)
    scores = []
    for live in ("on", "off"):
        folder = tmp_path / live
        folder.mkdir()
        settings = {"live": live, "live_lag_seconds": 1e9, "state_dir": folder / "state", "deadline_ms": 60_000}
        with live_service(bare, folder, **settings) as service:  # type: ignore[arg-type]
            scores.append(replay_moments(service.url, period.moments, len(period.labels), live == "on", quiet).scores)

    assert open_bundle(bare).bundle_id == exported.bundle.bundle_id
    assert scores[0] == pytest.approx(offline, abs=1e-3)
    assert np.abs(scores[1] - offline).max() > 0.01
