"""Figures against the metrics they are made of; a difference is over the seeds of both, with its own interval."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark.protocol import Advance, Folders, Protocol
from lab.benchmark.run import Results
from lab.benchmark.summary import BenchmarkMetrics, Figures, summarise
from lab.benchmark.variant import OURS, PLAIN, UNTUNED, Variant, standard_variants
from msd.metrics import measure
from tests.lab.benchmark.results import made_results

RESAMPLES = 400
SKILLS = {OURS: (1.5, 3), PLAIN: (1.0, 3), "din": (0.5, 3), UNTUNED: (1.4, 2), "bag_of_words": (1.4, 2)}
KEYS = """
auc_mean auc_std uauc_mean logloss_mean ece predicted_over_observed gain_auc gain_auc_ci95 gain_p gain_auc_warm
gain_auc_warm_ci95 gain_auc_cold gain_auc_cold_ci95 auc_live_counts auc_live_counts_gain baselines ablations ensemble
"""


def _prepare(data: Path, work: Path, advance: Advance) -> Folders:
    raise AssertionError("nothing is prepared here")


PROTOCOL = Protocol(
    "made", "made up", _prepare, tuple(variant for variant in standard_variants() if variant.name in SKILLS)
)


@pytest.fixture(scope="module")
def results() -> Results:
    return made_results(SKILLS)


@pytest.fixture(scope="module")
def measured(results: Results) -> BenchmarkMetrics:
    return BenchmarkMetrics(results, RESAMPLES)


@pytest.fixture(scope="module")
def figures(results: Results) -> Figures:
    return summarise(PROTOCOL, results, RESAMPLES)


def _aucs(results: Results, name: str, where: np.ndarray | slice = slice(None)) -> list[float]:
    rows = results.rows[0]
    return [roc_auc_score(rows.labels[where], one.test[where]) for one in results.found[name].values()]


def test_every_promised_key_is_there_and_the_whole_is_json(figures: Figures) -> None:
    assert set(KEYS.split()) <= set(figures)
    assert json.loads(json.dumps(figures, allow_nan=False))["auc_mean"] == figures["auc_mean"]


def test_means_are_over_seeds_of_each_seeds_metric(figures: Figures, results: Results) -> None:
    rows = results.rows[0]
    by_seed = [measure(rows.labels, one.test, rows.users) for one in results.found[OURS].values()]
    for key, metric in (("auc_mean", "auc"), ("uauc_mean", "uauc"), ("logloss_mean", "logloss"), ("ece", "ece")):
        values = np.array([one[metric] for one in by_seed], float)
        assert figures[key] == pytest.approx(values.mean())
    assert figures["auc_std"] == pytest.approx(np.std(_aucs(results, OURS), ddof=1))
    assert figures["valid_auc_mean"] == pytest.approx(0.65)


def test_the_gain_is_paired_and_its_interval_holds_it(figures: Figures, results: Results) -> None:
    gain = np.mean(_aucs(results, OURS)) - np.mean(_aucs(results, PLAIN))
    assert figures["gain_auc"] == pytest.approx(gain)
    low, high = figures["gain_auc_ci95"]
    assert 0 < low < gain < high
    assert figures["gain_p"] == pytest.approx(2 / (RESAMPLES + 1))
    assert figures["baselines"][PLAIN]["gain"] == figures["gain_auc"]
    assert figures["baselines"][PLAIN]["gain_ci95"] == figures["gain_auc_ci95"]


@pytest.mark.parametrize("where", ["warm", "cold"])
def test_warm_and_cold_rows_have_figures_of_their_own(figures: Figures, results: Results, where: str) -> None:
    rows = results.rows[0].warm if where == "warm" else ~results.rows[0].warm
    gain = np.mean(_aucs(results, OURS, rows)) - np.mean(_aucs(results, PLAIN, rows))
    assert figures[f"auc_{where}"] == pytest.approx(np.mean(_aucs(results, OURS, rows)))
    assert figures[f"gain_auc_{where}"] == pytest.approx(gain)
    low, high = figures[f"gain_auc_{where}_ci95"]
    assert low < gain < high


def test_live_counts_are_measured_apart(figures: Figures, results: Results) -> None:
    live = np.mean([roc_auc_score(results.rows[0].labels, one.live) for one in results.found[OURS].values()])
    assert figures["auc_live_counts"] == pytest.approx(live)
    assert figures["auc_live_counts_gain"] == pytest.approx(live - figures["auc_mean"])
    assert figures["auc_live_counts_gain"] > 0
    assert figures["baselines"]["din"]["auc_live_counts"] > figures["baselines"]["din"]["auc"]


def test_an_ablation_is_compared_over_the_seeds_it_has(figures: Figures, results: Results) -> None:
    assert set(figures["ablations"]) == {UNTUNED, "bag_of_words"}
    entry = figures["ablations"]["bag_of_words"]
    theirs = np.mean(_aucs(results, "bag_of_words"))
    assert entry["seeds"] == 2
    assert entry["auc"] == pytest.approx(theirs)
    assert entry["gain"] == pytest.approx(np.mean(_aucs(results, OURS)[:2]) - theirs)
    assert entry["untuned_gain"] == pytest.approx(np.mean(_aucs(results, UNTUNED)) - theirs)
    low, high = entry["untuned_gain_ci95"]
    assert low < entry["untuned_gain"] < high
    assert entry["untuned_gain_p"] > entry["gain_p"]
    assert "untuned_gain" not in figures["ablations"][UNTUNED]


def test_the_ensemble_is_of_mean_probabilities(figures: Figures, results: Results) -> None:
    together = np.mean([one.test for one in results.found[OURS].values()], axis=0)
    assert figures["ensemble"]["auc"] == pytest.approx(roc_auc_score(results.rows[0].labels, together))
    assert figures["ensemble"]["auc"] > figures["auc_mean"]
    assert figures["ensemble"]["seeds"] == 3


def test_a_model_is_not_better_than_itself(measured: BenchmarkMetrics) -> None:
    assert measured.gain(OURS, OURS) == {"gain": 0.0, "ci95": (0.0, 0.0), "p": 1.0}


def test_rows_of_one_label_or_none_have_no_auc(results: Results) -> None:
    rows = results.rows[0]
    all_warm = replace(results, rows={0: rows._replace(warm=np.ones_like(rows.warm))})
    figures = summarise(PROTOCOL, all_warm, RESAMPLES)
    assert figures["auc_cold"] is None
    assert figures["gain_auc_cold"] is None
    assert figures["gain_auc_cold_ci95"] is None
    assert figures["gain_auc_warm"] == pytest.approx(figures["gain_auc"])


def test_one_seed_has_no_deviation() -> None:
    figures = summarise(PROTOCOL, made_results({name: (skill, 1) for name, (skill, _) in SKILLS.items()}), RESAMPLES)
    assert figures["auc_std"] is None
    assert figures["gain_auc_ci95"] is not None


def test_without_tuning_nothing_is_compared_with_it() -> None:
    variants = (Variant(OURS, "ours", "student"), Variant(PLAIN, "baseline"))
    figures = summarise(
        replace(PROTOCOL, variants=variants), made_results({OURS: (1.5, 2), PLAIN: (1.0, 2)}), RESAMPLES
    )
    assert figures["ablations"] == {}
    assert "untuned_gain" not in figures["baselines"][PLAIN]
