"""Figures against the metrics they are made of; a difference is over the seeds of both, with its own interval.

Results are made up: labels depend on a hidden taste, and variants see more or less of it.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score

from lab.benchmark.given import Floats
from lab.benchmark.predictions import MeasuredRows
from lab.benchmark.protocol import Folders, Progress, Protocol
from lab.benchmark.run import Results
from lab.benchmark.summary import Figures, resampled_t, summarise
from lab.benchmark.variant import CATEGORY_PRIOR, ENCODED, OURS, PLAIN, Variant, standard_variants
from msd.metrics import measure
from msd.teachers.knowledge import TeachRecord

RESAMPLES, ROWS, USERS = 400, 900, 45
SKILLS = {OURS: (1.5, 3), PLAIN: (1.0, 3), "din": (0.5, 3), "bag_of_words": (1.4, 2)}
COLD_SKILLS = {OURS: (1.5, 10), PLAIN: (1.2, 10), "ridge": (1.3, 10), ENCODED: (1.1, 10), CATEGORY_PRIOR: (1.15, 10)}
COLD_SKILLS |= {"bag_of_words": (1.4, 3)}


def _prepare(data: Path, work: Path, progress: Progress) -> Folders:
    raise AssertionError("nothing is prepared here")


PROTOCOL = Protocol(
    "made", "made up", _prepare, tuple(variant for variant in standard_variants() if variant.name in SKILLS)
)
COLD_PROTOCOL = replace(
    PROTOCOL,
    variants=(
        Variant(OURS, "ours", "student"),
        Variant(PLAIN, "baseline", untaught=True),
        Variant("ridge", "baseline"),
        Variant("bag_of_words", "ablation", "bag_of_words"),
        Variant(ENCODED, "ours", "untaught", taught=False, untaught=True),
        Variant(CATEGORY_PRIOR, "baseline", "untaught", taught=False, untaught=True),
    ),
    hidden=0.2,
)


def _made_rows(seed: int) -> tuple[MeasuredRows, Floats]:
    """Test rows, and what their labels depend on."""
    rng = np.random.default_rng(seed)
    taste = rng.standard_normal(ROWS)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-2 * taste))).astype(np.float64)
    users = rng.integers(USERS, size=ROWS)
    requests = 1_000 * users + rng.integers(3, size=ROWS)
    return MeasuredRows(labels, users, requests, np.ones(ROWS, bool), np.arange(ROWS)), taste


def _predictions(taste: Floats, skill: float, seed: int) -> dict[str, Floats]:
    """Predictions of a model of that skill; with live counts they are a little better."""
    noise = np.random.default_rng(seed).standard_normal(len(taste))
    skills = {"frozen": skill, "live_0_s": skill + 0.5, "live_600_s": skill + 0.3}
    return {view: 1 / (1 + np.exp(-(sight * taste + noise))) for view, sight in skills.items()}


def _made(skills: dict[str, tuple[float, int]], *, shared: bool = True) -> Results:
    """Variants by name, with their skill and number of seeds; all on the same rows if they are shared."""
    made = {seed: _made_rows(0 if shared else seed) for seed in range(max(seeds for _, seeds in skills.values()))}
    found = {
        name: {seed: _predictions(made[seed][1], skill, 100 * place + seed) for seed in range(seeds)}
        for place, (name, (skill, seeds)) in enumerate(skills.items())
    }
    record = TeachRecord(teacher="made", prompt_version="1", dataset="made", items=1, users=0)
    return Results({seed: rows for seed, (rows, _) in made.items()}, found, {}, record)


@pytest.fixture(scope="module")
def results() -> Results:
    return _made(SKILLS)


@pytest.fixture(scope="module")
def figures(results: Results) -> Figures:
    return summarise(PROTOCOL, results, RESAMPLES)


@pytest.fixture(scope="module")
def cold_results() -> Results:
    return _made(COLD_SKILLS, shared=False)


@pytest.fixture(scope="module")
def cold_figures(cold_results: Results) -> Figures:
    return summarise(COLD_PROTOCOL, cold_results, RESAMPLES)


def _aucs(results: Results, name: str, view: str = "frozen") -> Floats:
    return np.array(
        [roc_auc_score(results.rows[seed].labels, views[view]) for seed, views in results.found[name].items()]
    )


def _lines(figures: Figures, view: str) -> Figures:
    lines: Figures = figures["views"][view]["lines"]
    return lines


@pytest.mark.parametrize("view", ["frozen", "live_0_s", "live_600_s"])
def test_means_are_over_seeds_of_each_seeds_metric(figures: Figures, results: Results, view: str) -> None:
    rows, line = results.rows[0], _lines(figures, view)[OURS]
    by_seed = [measure(rows.labels, found[view], rows.users) for found in results.found[OURS].values()]
    for metric in ("auc", "uauc", "logloss", "ece", "predicted_over_observed"):
        assert line[metric] == pytest.approx(np.mean([metrics[metric] for metrics in by_seed]))
    assert line["auc_std"] == pytest.approx(np.std(_aucs(results, OURS, view), ddof=1))
    assert line["seeds"] == 3
    assert json.loads(json.dumps(figures, allow_nan=False))["views"][view]["model"] == OURS


def test_gain_is_paired_and_within_its_interval(figures: Figures, results: Results) -> None:
    found = _lines(figures, "frozen")[PLAIN]["gains"]["auc"]
    low, high = found["ci95"]
    assert found["gain"] == pytest.approx(np.mean(_aucs(results, OURS)) - np.mean(_aucs(results, PLAIN)))
    assert 0 < low < found["gain"] < high
    assert _lines(figures, "frozen")[OURS]["gains"] == {}


def test_request_auc_is_weighted_by_rows_and_needs_a_delay(figures: Figures, results: Results) -> None:
    rows, line = results.rows[0], _lines(figures, "live_600_s")[PLAIN]
    by_seed = [measure(rows.labels, found["live_600_s"], rows.requests) for found in results.found[PLAIN].values()]
    assert line["request_auc"] == pytest.approx(np.mean([metrics["gauc"] for metrics in by_seed]))
    found = line["gains"]["request_auc"]
    low, high = found["ci95"]
    assert low < found["gain"] < high
    assert "request_auc" not in _lines(figures, "live_0_s")[PLAIN]


def test_ablation_is_compared_over_its_seeds(figures: Figures, results: Results) -> None:
    line, theirs = _lines(figures, "frozen")["bag_of_words"], np.mean(_aucs(results, "bag_of_words"))
    assert line["seeds"] == 2
    assert line["gains"]["auc"]["gain"] == pytest.approx(np.mean(_aucs(results, OURS)[:2]) - theirs)


def test_missing_figures_are_none(results: Results) -> None:
    rows = results.rows[0]
    alone = replace(results, rows={0: rows._replace(requests=np.arange(ROWS))})
    line = _lines(summarise(PROTOCOL, alone, 100), "live_600_s")[PLAIN]
    assert line["request_auc"] is None
    assert line["gains"]["request_auc"] == {"gain": None, "ci95": None}
    without = replace(results, found={PLAIN: results.found[PLAIN]})
    assert _lines(summarise(PROTOCOL, without, 100), "frozen")[PLAIN]["gains"]["auc"]["gain"] is None
    assert resampled_t([0.1], 0.2) is resampled_t([0.0, 0.0], 0.2) is None


def test_cold_gain_is_that_of_a_corrected_t_test(cold_figures: Figures, cold_results: Results) -> None:
    """Of seeds that hide a fifth each, an interval is √3.5 = 1.87 times as wide as that of ten independent ones."""
    ours, theirs = _aucs(cold_results, OURS), _aucs(cold_results, PLAIN)
    lines = _lines(cold_figures, "taught")
    assert lines[OURS]["auc"] == pytest.approx(ours.mean())
    assert lines[OURS]["auc_std"] == pytest.approx(ours.std(ddof=1))
    naive = stats.ttest_rel(ours, theirs)
    interval = naive.confidence_interval(0.95)
    width = (interval.high - interval.low) / 2 * np.sqrt(3.5)
    gain, found = (ours - theirs).mean(), lines[PLAIN]["gains"]["auc"]
    assert found["gain"] == pytest.approx(gain)
    assert found["ci95"] == pytest.approx((gain - width, gain + width))


def test_taught_and_untaught_items_are_in_separate_tables(cold_figures: Figures, cold_results: Results) -> None:
    assert {kind: view["model"] for kind, view in cold_figures["views"].items()} == {
        "taught": OURS,
        "untaught": ENCODED,
    }
    assert set(_lines(cold_figures, "taught")) == {OURS, PLAIN, "ridge", "bag_of_words"}
    untaught = _lines(cold_figures, "untaught")
    assert set(untaught) == {ENCODED, PLAIN, CATEGORY_PRIOR}
    gain = (_aucs(cold_results, ENCODED) - _aucs(cold_results, CATEGORY_PRIOR)).mean()
    assert untaught[CATEGORY_PRIOR]["gains"]["auc"]["gain"] == pytest.approx(gain)
    words, gaps = _lines(cold_figures, "taught")["bag_of_words"], _aucs(cold_results, OURS)[:3]
    expected = (gaps - _aucs(cold_results, "bag_of_words")).mean()
    assert (words["seeds"], words["gains"]["auc"]["gain"]) == (3, pytest.approx(expected))
