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

from lab.benchmark.predictions import Floats, MeasuredRows, Predictions
from lab.benchmark.protocol import Folders, Progress, Protocol
from lab.benchmark.run import Results
from lab.benchmark.summary import BenchmarkMetrics, Figures, resampled_t, summarise
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
    """Test rows, cold for the last third of users, and what their labels depend on."""
    rng = np.random.default_rng(seed)
    taste = rng.standard_normal(ROWS)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-2 * taste))).astype(np.float64)
    users = rng.integers(USERS, size=ROWS)
    return MeasuredRows(labels, users, users < 2 * USERS // 3), taste


def _predictions(taste: Floats, skill: float, seed: int) -> Predictions:
    """Predictions of a model of that skill; with live counts they are a little better."""
    noise = np.random.default_rng(seed).standard_normal((2, len(taste)))
    test, live = (1 / (1 + np.exp(-(sight * taste + noise[0]))) for sight in (skill, skill + 0.5))
    return Predictions(noise[1], test, live, 0.5 + skill / 10, 10.0 + seed)


def _made(skills: dict[str, tuple[float, int]], *, shared: bool = True) -> Results:
    """Variants by name, with their skill and number of seeds; all on the same rows if they are shared."""
    made = {seed: _made_rows(0 if shared else seed) for seed in range(max(seeds for _, seeds in skills.values()))}
    found = {
        name: {seed: _predictions(made[seed][1], skill, 100 * place + seed) for seed in range(seeds)}
        for place, (name, (skill, seeds)) in enumerate(skills.items())
    }
    record = TeachRecord(teacher="made", prompt_version="1", dataset="made", items=1, users=0)
    return Results({seed: rows for seed, (rows, _) in made.items()}, found, record)


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


def _aucs(results: Results, name: str, where: np.ndarray | slice = slice(None)) -> Floats:
    found = results.found[name]
    return np.array([roc_auc_score(results.rows[seed].labels[where], found[seed].test[where]) for seed in found])


def test_means_are_over_seeds_of_each_seeds_metric(figures: Figures, results: Results) -> None:
    rows = results.rows[0]
    by_seed = [measure(rows.labels, found.test, rows.users) for found in results.found[OURS].values()]
    names = {"auc_mean": "auc", "uauc_mean": "uauc", "logloss_mean": "logloss", "ece": "ece"}
    for key, metric in {**names, "predicted_over_observed": "predicted_over_observed"}.items():
        assert figures[key] == pytest.approx(np.mean([metrics[metric] for metrics in by_seed]))
    assert figures["auc_std"] == pytest.approx(np.std(_aucs(results, OURS), ddof=1))
    assert figures["valid_auc_mean"] == pytest.approx(0.65)
    assert json.loads(json.dumps(figures, allow_nan=False))["auc_mean"] == figures["auc_mean"]


def test_gain_is_paired_and_within_its_interval(figures: Figures, results: Results) -> None:
    gain = np.mean(_aucs(results, OURS)) - np.mean(_aucs(results, PLAIN))
    assert figures["gain_auc"] == pytest.approx(gain)
    low, high = figures["gain_auc_ci95"]
    assert 0 < low < gain < high
    assert figures["gain_p"] == pytest.approx(2 / (RESAMPLES + 1))
    assert figures["baselines"][PLAIN]["gain"] == figures["gain_auc"]
    assert figures["baselines"][PLAIN]["gain_ci95"] == figures["gain_auc_ci95"]
    assert BenchmarkMetrics(results, 100).gain(OURS, OURS) == {"gain": 0.0, "ci95": (0.0, 0.0), "p": 1.0}


@pytest.mark.parametrize("where", ["warm", "cold"])
def test_warm_and_cold_rows_have_figures_of_their_own(figures: Figures, results: Results, where: str) -> None:
    rows = results.rows[0].warm if where == "warm" else ~results.rows[0].warm
    gain = np.mean(_aucs(results, OURS, rows)) - np.mean(_aucs(results, PLAIN, rows))
    assert figures[f"auc_{where}"] == pytest.approx(np.mean(_aucs(results, OURS, rows)))
    assert figures[f"gain_auc_{where}"] == pytest.approx(gain)
    low, high = figures[f"gain_auc_{where}_ci95"]
    assert low < gain < high


def test_live_counts_are_measured_apart(figures: Figures, results: Results) -> None:
    live = np.mean([roc_auc_score(results.rows[0].labels, found.live) for found in results.found[OURS].values()])
    assert figures["auc_live_counts"] == pytest.approx(live)
    assert figures["auc_live_counts_gain"] == pytest.approx(live - figures["auc_mean"])
    assert figures["auc_live_counts_gain"] > 0
    assert figures["baselines"]["din"]["auc_live_counts"] > figures["baselines"]["din"]["auc"]


def test_ablation_is_compared_over_its_seeds(figures: Figures, results: Results) -> None:
    assert set(figures["ablations"]) == {"bag_of_words"}
    entry, theirs = figures["ablations"]["bag_of_words"], np.mean(_aucs(results, "bag_of_words"))
    assert entry["seeds"] == 2
    assert entry["auc"] == pytest.approx(theirs)
    assert entry["gain"] == pytest.approx(np.mean(_aucs(results, OURS)[:2]) - theirs)
    low, high = entry["gain_ci95"]
    assert low < entry["gain"] < high


def test_ensemble_is_of_mean_probabilities(figures: Figures, results: Results) -> None:
    together = np.mean([found.test for found in results.found[OURS].values()], axis=0)
    assert figures["ensemble"]["auc"] == pytest.approx(roc_auc_score(results.rows[0].labels, together))
    assert figures["ensemble"]["auc"] > figures["auc_mean"]
    assert figures["ensemble"]["seeds"] == 3


def test_missing_figures_are_none(results: Results) -> None:
    rows = results.rows[0]
    all_warm = replace(results, rows={0: rows._replace(warm=np.ones_like(rows.warm))})
    found = summarise(PROTOCOL, all_warm, RESAMPLES)
    assert [found[name] for name in ("auc_cold", "gain_auc_cold", "gain_auc_cold_ci95")] == [None] * 3
    assert found["gain_auc_warm"] == pytest.approx(found["gain_auc"])

    variants = (Variant(OURS, "ours", "student"), Variant(PLAIN, "baseline"))
    single = summarise(replace(PROTOCOL, variants=variants), _made({OURS: (1.5, 1), PLAIN: (1.0, 1)}), RESAMPLES)
    assert single["auc_std"] is None
    assert single["gain_auc_ci95"] is not None
    assert single["ablations"] == {}

    assert resampled_t([0.1], 0.2) == resampled_t([0.0, 0.0], 0.2) == {"ci95": None, "p": None}


def test_cold_gain_is_that_of_a_corrected_t_test(cold_figures: Figures, cold_results: Results) -> None:
    """Of seeds that hide a fifth each, an interval is √3.5 = 1.87 times as wide as that of ten independent ones."""
    ours, theirs = _aucs(cold_results, OURS), _aucs(cold_results, PLAIN)
    assert cold_figures["auc_mean"] == pytest.approx(ours.mean())
    assert cold_figures["auc_std"] == pytest.approx(ours.std(ddof=1))
    assert cold_figures["auc_without_semantics"] == pytest.approx(theirs.mean())
    assert set(cold_figures) >= {"logloss_mean", "ece", "predicted_over_observed"}
    assert json.loads(json.dumps(cold_figures, allow_nan=False))["auc_mean"] == cold_figures["auc_mean"]
    naive = stats.ttest_rel(ours, theirs)
    interval = naive.confidence_interval(0.95)
    width = (interval.high - interval.low) / 2 * np.sqrt(3.5)
    gain = (ours - theirs).mean()
    assert cold_figures["gain_auc"] == pytest.approx(gain)
    assert cold_figures["gain_auc_ci95"] == pytest.approx((gain - width, gain + width))
    assert cold_figures["gain_p"] == pytest.approx(2 * stats.t(9).sf(naive.statistic / np.sqrt(3.5)))


def test_taught_and_untaught_items_are_in_separate_tables(cold_figures: Figures, cold_results: Results) -> None:
    untaught = cold_figures["untaught"]
    assert (cold_figures["model"], untaught["model"]) == (OURS, ENCODED)
    assert set(untaught["baselines"]) == {PLAIN, CATEGORY_PRIOR}
    assert untaught["ablations"] == {}
    gain = (_aucs(cold_results, ENCODED) - _aucs(cold_results, CATEGORY_PRIOR)).mean()
    assert untaught["baselines"][CATEGORY_PRIOR]["gain"] == pytest.approx(gain)
    assert untaught["auc_mean"] == pytest.approx(_aucs(cold_results, ENCODED).mean())
    assert set(cold_figures["baselines"]) == {PLAIN, "ridge"}
    assert cold_figures["best_baseline"] == "ridge"
    assert cold_figures["gain_auc_over_best_baseline"] == cold_figures["baselines"]["ridge"]["gain"]
    words, gaps = cold_figures["ablations"]["bag_of_words"], _aucs(cold_results, OURS)[:3]
    assert (words["seeds"], words["gain"]) == (3, pytest.approx((gaps - _aucs(cold_results, "bag_of_words")).mean()))
