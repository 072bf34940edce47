"""Where each seed has rows of its own, seeds are averaged and paired, as scipy's paired t-test has it."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score

from msd.benchmark.protocol import Advance, Folders, Protocol
from msd.benchmark.run import Results
from msd.benchmark.summary_by_seed import Figures, paired, summarise_by_seed
from msd.benchmark.variant import OURS, PLAIN, Variant
from tests.benchmark.results import made_rows, said

SKILLS = {OURS: (1.5, 10), PLAIN: (1.2, 10), "ridge": (1.3, 10), "bag_of_words": (1.4, 3)}


def _prepare(data: Path, work: Path, advance: Advance) -> Folders:
    raise AssertionError("nothing is prepared here")


PROTOCOL = Protocol(
    "made",
    "made up",
    _prepare,
    (
        Variant(OURS, "ours", "student"),
        Variant(PLAIN, "baseline"),
        Variant("ridge", "baseline"),
        Variant("bag_of_words", "ablation", "bag_of_words"),
    ),
    rows_vary=True,
)


@pytest.fixture(scope="module")
def results() -> Results:
    made = {seed: made_rows(seed) for seed in range(10)}
    found = {
        name: {seed: said(made[seed][1], skill, 100 * place + seed) for seed in range(seeds)}
        for place, (name, (skill, seeds)) in enumerate(SKILLS.items())
    }
    return Results({seed: rows for seed, (rows, _) in made.items()}, found, 0.0)


@pytest.fixture(scope="module")
def figures(results: Results) -> Figures:
    return summarise_by_seed(PROTOCOL, results)


def _aucs(results: Results, name: str) -> np.ndarray:
    return np.array(
        [roc_auc_score(results.rows[seed].labels, one.test) for seed, one in results.found[name].items()], float
    )


def test_auc_is_pooled_over_a_seeds_rows_and_averaged(figures: Figures, results: Results) -> None:
    assert figures["auc_mean"] == pytest.approx(_aucs(results, OURS).mean())
    assert figures["auc_std"] == pytest.approx(_aucs(results, OURS).std(ddof=1))
    assert figures["auc_without_semantics"] == pytest.approx(_aucs(results, PLAIN).mean())
    assert set(figures) >= {"logloss_mean", "ece", "predicted_over_observed"}
    assert json.loads(json.dumps(figures, allow_nan=False))["auc_mean"] == figures["auc_mean"]


def test_the_gain_is_that_of_a_paired_t_test(figures: Figures, results: Results) -> None:
    ours, theirs = _aucs(results, OURS), _aucs(results, PLAIN)
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert figures["gain_auc"] == pytest.approx((ours - theirs).mean())
    assert figures["gain_p"] == pytest.approx(expected.pvalue)
    assert figures["gain_auc_ci95"] == pytest.approx((interval.low, interval.high))
    assert figures["gain_test"] == "paired t-test over seeds, two-sided"


def test_baselines_and_ablations_are_compared_over_their_seeds(figures: Figures, results: Results) -> None:
    assert set(figures["baselines"]) == {PLAIN, "ridge"}
    assert figures["best_baseline"] == "ridge"
    assert figures["gain_auc_over_best_baseline"] == figures["baselines"]["ridge"]["gain"]
    words = figures["ablations"]["bag_of_words"]
    gaps = _aucs(results, OURS)[:3] - _aucs(results, "bag_of_words")
    assert (words["seeds"], words["gain"]) == (3, pytest.approx(gaps.mean()))


def test_what_cannot_be_known_is_none() -> None:
    assert paired({0: 0.7}, {0: 0.6, 1: 0.5}) == {"gain": pytest.approx(0.1), "ci95": None, "p": None}
    assert paired({0: 0.7, 1: 0.8}, {0: 0.7, 1: 0.8}) == {"gain": 0.0, "ci95": None, "p": None}
