"""Where each seed hides items of its own, seeds are averaged and paired, and share what they train on."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score

from lab.benchmark.protocol import Advance, Folders, Protocol
from lab.benchmark.run import Results
from lab.benchmark.summary_by_seed import TEST, Figures, resampled_t, summarise_by_seed
from lab.benchmark.variant import CATEGORY_PRIOR, ENCODED, OURS, PLAIN, Variant
from tests.lab.benchmark.results import TAUGHT, made_rows, said

SKILLS = {
    OURS: (1.5, 10),
    PLAIN: (1.2, 10),
    "ridge": (1.3, 10),
    "bag_of_words": (1.4, 3),
    ENCODED: (1.1, 10),
    CATEGORY_PRIOR: (1.15, 10),
}


def _prepare(data: Path, work: Path, advance: Advance) -> Folders:
    raise AssertionError("nothing is prepared here")


PROTOCOL = Protocol(
    "made",
    "made up",
    _prepare,
    (
        Variant(OURS, "ours", "student"),
        Variant(PLAIN, "baseline", untaught=True),
        Variant("ridge", "baseline"),
        Variant("bag_of_words", "ablation", "bag_of_words"),
        Variant(ENCODED, "ours", "untaught", taught=False, untaught=True),
        Variant(CATEGORY_PRIOR, "baseline", "untaught", taught=False, untaught=True),
    ),
    hidden=0.2,
)


@pytest.fixture(scope="module")
def results() -> Results:
    made = {seed: made_rows(seed) for seed in range(10)}
    found = {
        name: {seed: said(made[seed][1], skill, 100 * place + seed) for seed in range(seeds)}
        for place, (name, (skill, seeds)) in enumerate(SKILLS.items())
    }
    return Results({seed: rows for seed, (rows, _) in made.items()}, found, 0.0, TAUGHT)


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


def test_the_gain_is_that_of_a_corrected_t_test(figures: Figures, results: Results) -> None:
    """Of seeds that hide a fifth each, an interval is √3.5 = 1.87 times as wide as ten independent ones have it."""
    ours, theirs = _aucs(results, OURS), _aucs(results, PLAIN)
    naive = stats.ttest_rel(ours, theirs)
    interval = naive.confidence_interval(0.95)
    wide = (interval.high - interval.low) / 2 * np.sqrt(3.5)
    gain = (ours - theirs).mean()
    assert figures["gain_auc"] == pytest.approx(gain)
    assert figures["gain_auc_ci95"] == pytest.approx((gain - wide, gain + wide))
    assert figures["gain_p"] == pytest.approx(2 * stats.t(9).sf(naive.statistic / np.sqrt(3.5)))
    assert figures["gain_test"] == TEST


def test_taught_and_untaught_items_never_stand_in_one_table(figures: Figures, results: Results) -> None:
    assert (figures["model"], figures["untaught"]["model"]) == (OURS, ENCODED)
    assert set(figures["untaught"]["baselines"]) == {PLAIN, CATEGORY_PRIOR}
    assert figures["untaught"]["ablations"] == {}
    gain = (_aucs(results, ENCODED) - _aucs(results, CATEGORY_PRIOR)).mean()
    assert figures["untaught"]["baselines"][CATEGORY_PRIOR]["gain"] == pytest.approx(gain)
    assert figures["untaught"]["auc_mean"] == pytest.approx(_aucs(results, ENCODED).mean())


def test_baselines_and_ablations_are_compared_over_their_seeds(figures: Figures, results: Results) -> None:
    assert set(figures["baselines"]) == {PLAIN, "ridge"}
    assert figures["best_baseline"] == "ridge"
    assert figures["gain_auc_over_best_baseline"] == figures["baselines"]["ridge"]["gain"]
    words = figures["ablations"]["bag_of_words"]
    gaps = _aucs(results, OURS)[:3] - _aucs(results, "bag_of_words")
    assert (words["seeds"], words["gain"]) == (3, pytest.approx(gaps.mean()))


def test_what_cannot_be_known_is_none() -> None:
    assert resampled_t([0.1], 0.2) == {"ci95": None, "p": None}
    assert resampled_t([0.0, 0.0], 0.2) == {"ci95": None, "p": None}
