"""The verdict names the better of the model and the best baseline, and objects to figures that cannot be trusted."""

from typing import Any

import numpy as np
import pytest

from msd.dataset.split import Part
from msd.evaluation.single_features import single_features
from msd.evaluation.verdict import objections, say_verdict, say_within
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from tests.ranker.made import dataset_of


def results(**model: float) -> dict[str, Any]:
    """An evaluation without faults, but for the given metrics of the model."""
    metrics = {"auc": 0.75, "logloss": 0.2, "normalised_entropy": 0.9, "predicted_over_observed": 1.02}
    valid_auc = model.pop("valid_auc", 0.76)
    counted = {"impressions": 50_000.0, "clicks": 1_000.0}
    gain = {"difference": 0.03, "users": {"ci95": (0.01, 0.05)}}
    return {
        "models": {
            "ours": {"metrics": metrics | model, "valid_auc": valid_auc, "curve": []},
            "counts": {"metrics": metrics | {"auc": 0.72}},
            "tfidf": {"metrics": metrics | {"auc": 0.6, "normalised_entropy": 1.05}},
        },
        "clicks": {part: dict(counted) for part in ("train", "valid", "test")},
        "alone": {"device": 0.61},
        "differences": [{"model": "ours", "minus": name, "auc": gain} for name in ("tfidf", "counts")],
        "within": None,
        "objections": [],
    }


def test_sound_figures_raise_no_objection() -> None:
    assert objections(results()) == []


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"normalised_entropy": 1.014}, "worse than a constant: normalised entropy 1.014"),
        ({"predicted_over_observed": 1.69}, "predicts 1.69 × the clicks that were observed"),
        ({"predicted_over_observed": 0.7}, "predicts 0.70 × the clicks"),
        ({"auc": 0.985, "valid_auc": 0.99}, "AUC 0.9900 on valid rows, too good to be true"),
        ({"auc": 0.651, "valid_auc": 0.76}, "AUC 0.760 on valid rows and 0.651 on test rows"),
    ],
)
def test_doubtful_figure_is_named_with_what_to_look_at(metrics: dict[str, float], said: str) -> None:
    (objection,) = objections(results(**metrics))
    assert said in objection
    assert "Look " in objection


def test_shifted_click_rate_is_named() -> None:
    found = results()
    found["clicks"]["test"]["clicks"] = 1_700.0
    (objection,) = objections(found)
    assert "the click rate is 2.00% in train and 3.40% in test rows. Look at" in objection


def test_difference_that_may_be_chance_is_no_objection() -> None:
    found = results(auc=0.64, predicted_over_observed=1.5)
    found["clicks"] = {part: {"impressions": 500.0, "clicks": 20.0} for part in ("train", "valid", "test")}
    found["clicks"]["test"]["clicks"] = 32.0
    assert objections(found) == []


def test_baseline_with_absurd_logloss_is_named() -> None:
    found = results()
    found["models"]["counts"]["metrics"] |= {"logloss": 6.11, "normalised_entropy": 9.3}
    (objection,) = objections(found)
    assert "trees on counts: logloss 6.110 is 9.30 × that of a constant" in objection


def test_feature_known_after_the_click_is_named() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 400)
    rows = [(f"u{n % 20}", f"i{n % 7}", n * 60, int(label)) for n, label in enumerate(labels)]
    revenue = [float(label * draws.uniform(1, 9)) if draws.random() > 0.1 else None for label in labels]
    colour = [str(one) for one in draws.integers(0, 3, 400)]
    features = [
        {"name": "revenue", "side": "context", "kind": "numeric"},
        {"name": "colour", "side": "context", "kind": "categorical"},
    ]
    dataset = dataset_of(rows, events={"revenue": revenue, "colour": colour}, features=features)
    built = build_features(dataset, fit_schema(dataset, semantics=False), no_vectors())
    alone = single_features(built, built.of_part(Part.TEST))
    assert alone["revenue"] > 0.9 > 0.7 > alone["colour"]
    (objection,) = objections(results(auc=0.94, valid_auc=0.95) | {"alone": alone})
    assert "the feature revenue alone has AUC" in objection
    assert "known before the impression" in objection


def test_verdict_compares_with_the_best_baseline() -> None:
    told = "AUC of ours 0.7500, of the best other, trees on counts, 0.7200: +0.0300 (+0.0100 to +0.0500)"
    assert say_verdict(results()) == f"{told}: a sure gain; use ours."
    found = results()
    found["differences"][1]["auc"] = {"difference": -0.02, "users": {"ci95": (-0.03, -0.01)}}
    assert say_verdict(found).endswith("a sure loss; use counts.")


def test_verdict_begins_with_the_objections() -> None:
    lines = say_verdict(results() | {"objections": ["a doubt. Look there"]}).splitlines()
    assert lines[:2] == ["do not trust these figures yet.", "- a doubt. Look there."]
    assert lines[2].startswith("As they stand: AUC of ours")


@pytest.mark.parametrize(
    ("difference", "ends", "said"),
    [
        (0.02, (0.01, 0.03), "a sure gain; use ours"),
        (0.02, (-0.01, 0.05), "not a sure gain; use ours"),
        (-0.01, (-0.03, 0.01), "no gain; use tfidf"),
        (-0.05, (-0.08, -0.02), "a sure loss; use tfidf"),
    ],
)
def test_ranking_within_groups_is_compared_with_the_best_other(
    difference: float, ends: tuple[float, float], said: str
) -> None:
    share = {"chance": 0.5, "tfidf": 0.6}
    gains = {"chance": {"difference": 0.1, "ci95": (0.09, 0.11)}, "tfidf": {"difference": difference, "ci95": ends}}
    within = {
        "models": {name: {"pair_accuracy": {"value": value}} for name, value in share.items()},
        "differences": [{"model": "ours", "minus": name, "pair_accuracy": gain} for name, gain in gains.items()],
    }
    assert say_within(within).endswith(said)
