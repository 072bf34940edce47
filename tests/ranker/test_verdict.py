"""The verdict names the better of the model and the best baseline, and objects to figures that cannot be trusted."""

from typing import Any

import numpy as np
import pytest

from msd.dataset.split import Part
from msd.evaluation.single_features import single_features
from msd.evaluation.verdict import objections, say_verdict
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from tests.ranker.made import dataset_of


def results(**model: float) -> dict[str, Any]:
    """An evaluation without faults, but for the given metrics of the model."""
    metrics = {"auc": 0.75, "logloss": 0.2, "normalised_entropy": 0.9, "predicted_over_observed": 1.02}
    valid_auc = model.pop("valid_auc", 0.76)
    counted = {"impressions": 50_000.0, "clicks": 1_000.0}
    level = {"difference": -0.03, "users": {"ci95": (-0.05, -0.01)}}
    order = {"difference": 0.02, "users": {"ci95": (0.01, 0.03)}}
    return {
        "models": {
            "ours": {"metrics": metrics | model, "valid_auc": valid_auc, "curve": []},
            "counts": {"metrics": metrics | {"auc": 0.72}},
            "tfidf": {"metrics": metrics | {"auc": 0.6, "normalised_entropy": 1.05}},
        },
        "clicks": {part: dict(counted) for part in ("train", "valid", "test")},
        "alone": {"device": 0.61},
        "differences": [
            {"model": "ours", "minus": name, "logloss": dict(level), "gauc": dict(order)}
            for name in ("tfidf", "counts")
        ],
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


GAIN, LOSS, OPEN = (0.02, (0.01, 0.03)), (-0.02, (-0.03, -0.01)), (0.01, (-0.01, 0.03))
FORMS = {GAIN: "+0.0200 (+0.0100 to +0.0300), a sure gain", LOSS: "-0.0200 (-0.0300 to -0.0100), a sure loss"}
FORMS[OPEN] = "+0.0100 (-0.0100 to +0.0300), not sure"
LOSSES = {GAIN: "-0.0200 (-0.0300 to -0.0100), a sure gain", LOSS: "+0.0200 (+0.0100 to +0.0300), a sure loss"}
LOSSES[OPEN] = "-0.0100 (-0.0300 to +0.0100), not sure"
WORSE = (-0.01, (-0.03, 0.01))
LOSSES[WORSE] = "+0.0100 (-0.0100 to +0.0300), not sure"
Gain = tuple[float, tuple[float, float]]


@pytest.mark.parametrize(
    ("level", "order", "used", "end"),
    [
        (GAIN, GAIN, "ours", ""),
        (GAIN, OPEN, "ours", "; within users nothing is gained, only the level is"),
        (GAIN, LOSS, "ours", "; within users nothing is gained, only the level is"),
        (OPEN, GAIN, "ours", "; only the order is gained"),
        (GAIN, None, "ours", ""),
        (OPEN, OPEN, "ours", "; ahead by the expected logloss alone"),
        (WORSE, OPEN, "counts", "; ahead by the expected logloss alone"),
        (OPEN, LOSS, "counts", ""),
        (LOSS, GAIN, "counts", ""),
        (OPEN, None, "ours", "; ahead by the expected logloss alone"),
        (WORSE, None, "counts", "; ahead by the expected logloss alone"),
    ],
)
@pytest.mark.parametrize("counted", [False, True], ids=["events", "counted"])
def test_verdict_recommends_one_model(level: Gain, order: Gain | None, used: str, end: str, counted: bool) -> None:
    found = results()
    pair = found["differences"][1]
    (gain, (low, high)) = level
    pair["logloss"] = {"difference": -gain, "users": {"ci95": (-high, -low)}}
    pair["gauc"] = order and {"difference": order[0], "users": {"ci95": order[1]}}
    if counted and order:
        values = {"ours": 0.7, "counts": 0.6, "tfidf": 0.5, "chance": 0.5}
        found["within"] = {
            "groups": 40,
            "models": {name: {"pair_accuracy": {"value": value}} for name, value in values.items()},
            "differences": [
                {"model": "ours", "minus": name, "pair_accuracy": {"difference": order[0], "ci95": order[1]}}
                for name in ("tfidf", "counts", "chance")
            ],
        }
    what = "pairs ranked right within groups" if counted else "order within users (GAUC)"
    ordered = f"; {what} {FORMS[order]}" if order else ""
    told = f"ours against the best other, trees on counts: logloss {LOSSES[level]}{ordered}"
    assert say_verdict(found) == f"use {used}: {told}{end}."


def test_verdict_is_of_the_model_that_the_one_on_semantics_serves() -> None:
    found = results()
    found["models"]["plain"] = found["models"]["ours"]
    found["differences"] += [pair | {"model": "plain"} for pair in found["differences"]]
    for sure, model in ((True, "ours"), (False, "plain")):
        verdict = {"model": "ours", "minus": "plain", "sure": sure}
        assert say_verdict(found | {"verdict": verdict}).startswith(f"use {model}: {model} against the best other")


def test_single_user_is_judged_by_rows() -> None:
    found = results()
    found["differences"][1] |= {
        "logloss": {"difference": -0.1, "users": {"ci95": None}, "rows": {"ci95": (-0.2, -0.1)}},
        "gauc": {"difference": 0.1, "users": {"ci95": None}},
    }
    assert say_verdict(found).endswith(
        "logloss -0.1000 (-0.2000 to -0.1000), a sure gain; order within users (GAUC) +0.1000, not sure; within "
        "users nothing is gained, only the level is."
    )


def test_verdict_begins_with_the_objections() -> None:
    lines = say_verdict(results() | {"objections": ["a doubt. Look there"]}).splitlines()
    assert lines[:2] == ["do not trust these figures yet.", "- a doubt. Look there."]
    assert lines[2].startswith("As they stand: use ours")
