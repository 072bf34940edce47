"""What evaluation finds of models by name and seed, against the metrics of each on its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.evaluation.evaluate import EvaluatedRows, evaluate_models, judge_semantics
from msd.evaluation.scores import ModelScores
from msd.evaluation.verdict import objections, say_semantics
from msd.metrics import measure
from msd.training.folder import ModelFolderError
from msd.training.train import predict
from tests.ranker.made import World, save_world

RESAMPLES = 200


@pytest.fixture(scope="module")
def folders(world: World, plain_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    worlds = {"semantic": world, "plain": plain_world}
    return {
        f"{name}-{seed}": save_world(root / f"{name}-{seed}", of, seed)
        for name, of in worlds.items()
        for seed in (0, 1)
    }


@pytest.fixture(scope="module")
def results(tiny: Dataset, world: World, folders: dict[str, Path]) -> dict[str, Any]:
    heard: list[int] = []
    # Seeds 0 and 1 of "mixed" are the models with and without semantics, so that they differ.
    models = {
        "mixed": [folders["plain-1"], folders["semantic-0"]],
        "plain": [folders["plain-0"], folders["plain-1"]],
        "one": [folders["semantic-0"]],
    }
    found = evaluate_models(tiny, world.vectors, models, 0, RESAMPLES, lambda doing, done: heard.append(done))
    assert heard == sorted(heard) == list(range(9))
    assert json.loads(json.dumps(found, allow_nan=False))["rows"] == found["rows"]
    return found


def _expected(world: World) -> dict[str, float | None]:
    test = world.features.of_part(Part.TEST)
    labels = world.features.labels.numpy()[test].astype(np.float64)
    users = world.features.user.rows.numpy()[test].astype(np.int64)
    return measure(labels, predict(world.model, world.features, test), users)


def test_metrics_are_averaged_over_seeds(results: dict[str, Any], world: World, plain_world: World) -> None:
    semantic, plain = _expected(world), _expected(plain_world)
    mixed, one = results["models"]["mixed"], results["models"]["one"]
    assert one["metrics"] == pytest.approx(semantic)
    assert one["deviation"] is None
    assert [seed["seed"] for seed in mixed["seeds"]] == [0, 1]
    assert mixed["seeds"][1]["metrics"] == pytest.approx(plain)
    for metric, value in mixed["metrics"].items():
        assert value == pytest.approx((semantic[metric] + plain[metric]) / 2)  # type: ignore[operator]
        spread = abs(semantic[metric] - plain[metric]) / np.sqrt(2)  # type: ignore[operator]
        assert mixed["deviation"][metric] == pytest.approx(spread)


def test_differences_of_all_pairs_and_by_seed(results: dict[str, Any]) -> None:
    names = list(results["models"])
    assert names == ["mixed", "plain", "one", "regression", "counts"]
    pairs = {(one["model"], one["minus"]): one["auc"] for one in results["differences"]}
    assert list(pairs) == [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    for (one, other), auc in pairs.items():
        gap = results["models"][one]["metrics"]["auc"] - results["models"][other]["metrics"]["auc"]
        assert auc["difference"] == pytest.approx(gap)
        assert auc["users"]["ci95"][0] <= gap <= auc["users"]["ci95"][1]
        assert ("by_seed" in auc) == ("users_and_seeds" in auc) == ((one, other) == ("mixed", "plain"))
    by_seed = pairs["mixed", "plain"]["by_seed"]
    assert by_seed["differences"][1] == 0.0  # the same model
    assert np.mean(by_seed["differences"]) == pytest.approx(pairs["mixed", "plain"]["difference"])


def test_differences_have_the_order_within_users(results: dict[str, Any]) -> None:
    for pair in results["differences"]:
        ours, theirs = (results["models"][pair[side]]["metrics"]["gauc"] for side in ("model", "minus"))
        assert pair["gauc"]["difference"] == pytest.approx(ours - theirs)
        low, high = pair["gauc"]["users"]["ci95"]
        assert low <= ours - theirs <= high


def test_networks_have_figures_of_their_own(results: dict[str, Any]) -> None:
    models = results["models"]
    own = {"curve", "degradation", "cold_ads", "how_sure", "live_counts", "choice", "conversions"}
    own |= {"valid_auc"}
    assert set(models["one"]) - set(models["counts"]) == own
    # The vectors of one seed's items cannot be taken from the other, which has none.
    assert "item without vector" in models["one"]["degradation"]
    assert "item without vector" not in models["plain"]["degradation"]
    assert "item without vector" not in models["mixed"]["degradation"]
    for figures in models.values():
        for rung in figures.get("degradation", {}).values():
            assert 0.3 < rung["auc"] < 1
            assert rung["logloss"] > 0
    assert sum(point["impressions"] for point in models["mixed"]["calibration"]) == 2 * results["rows"]["test"]


def test_verdict_compares_first_pair_that_differs_in_semantics(results: dict[str, Any]) -> None:
    verdict, models = results["verdict"], results["models"]
    # The seeds of "mixed" are of both kinds, so that it says nothing of either.
    assert (verdict["model"], verdict["minus"]) == ("one", "plain")
    assert verdict["auc"] == pytest.approx([models[name]["live_counts"]["auc"] for name in ("one", "plain")])
    assert verdict["ci95"][0] <= verdict["gain"] <= verdict["ci95"][1]


def test_objections_rest_on_every_feature_and_part(results: dict[str, Any], tiny: Dataset) -> None:
    known = {feature.name for feature in tiny.config.features if feature.serving_value is None}
    assert results["alone"].keys() == known
    assert all(0 <= auc <= 1 for auc in results["alone"].values())
    rows, clicks = results["rows"], results["clicks"]
    assert clicks["train"]["impressions"] == rows["window"] + rows["train"]
    assert sum(one["clicks"] for one in clicks.values()) == tiny.events["label"].sum()
    assert results["objections"] == objections(results)


def test_verdict_names_the_export_command(results: dict[str, Any], tiny: Dataset, folders: dict[str, Path]) -> None:
    verdict = results["verdict"]
    served = folders["semantic-0" if verdict["sure"] else "plain-0"]
    assert verdict["command"] == f"msd export {tiny.folder} {served} BUNDLE"
    assert say_semantics(verdict).endswith(verdict["command"])


def test_slices_have_metrics_or_a_reason(results: dict[str, Any]) -> None:
    measured = [one for one in results["slices"] if "models" in one]
    rest = [one for one in results["slices"] if "models" not in one]
    assert measured
    assert rest
    assert all(one["unmeasured"] in ("fewer than 50 rows", "one label only") for one in rest)
    warm = next(one for one in measured if (one["by"], one["value"]) == ("user", "warm"))
    assert warm["rows"] == results["rows"]["test"]
    for name, figures in warm["models"].items():
        assert figures["auc"] == pytest.approx(results["models"][name]["metrics"]["auc"])
    whole = next(one["auc"] for one in results["differences"] if one["minus"] == "plain")
    assert warm["auc_gain_of_first"]["plain"]["difference"] == pytest.approx(whole["difference"])
    assert warm["auc_gain_of_first"]["plain"]["ci95"] == pytest.approx(whole["users"]["ci95"])


def test_rejects_test_rows_of_one_label(tiny: Dataset, world: World, folders: dict[str, Path]) -> None:
    parts = split_events(tiny.events, tiny.config)
    never = tiny.events.with_columns(label=tiny.events["label"] * pl.Series(parts != Part.TEST))
    with pytest.raises(ModelFolderError, match="all 180 test rows have label 0; nothing to rank"):
        evaluate_models(
            replace(tiny, events=never),
            world.vectors,
            {"a": [folders["plain-0"]]},
            0,
            RESAMPLES,
            lambda doing, done: None,
        )


N = 600
ROWS = EvaluatedRows((np.arange(N) % 3 == 0).astype(np.float64), np.ones(N), np.arange(N) % 30)


def _scores(noise: float, seed: int, semantics: bool, name: str, network: str = "msd") -> ModelScores:
    """Three seeds that know the labels as well as their noise allows."""
    drawn = np.random.default_rng(seed).normal(0, noise, (3, N))
    live = 1 / (1 + np.exp(-(ROWS.labels + drawn)))
    return ModelScores(name, (0, 1, 2), live, {}, live, (network, semantics))


@pytest.mark.parametrize(
    ("noise", "sure", "start"),
    [
        ((0.5, 3.0), True, "semantics: sure gain of +"),
        ((1.0, 1.0), False, "semantics: no sure gain, "),
        ((3.0, 0.5), False, "semantics: sure loss, -"),
    ],
)
def test_verdict_follows_the_interval(noise: tuple[float, float], sure: bool, start: str) -> None:
    verdict = judge_semantics([_scores(noise[1], 2, False, "plain"), _scores(noise[0], 1, True, "ours")], ROWS, 200, 0)
    assert verdict is not None
    assert (verdict["sure"], verdict["model"], verdict["minus"]) == (sure, "ours", "plain")
    sentence = say_semantics(verdict)
    assert sentence.startswith(start)
    assert sentence.endswith("serve ours" if sure else "serve plain")
    assert "95 % over users and seeds" in sentence


def test_verdict_needs_a_pair_of_one_network() -> None:
    ours = _scores(1.0, 1, True, "ours")
    for measured in ([ours, _scores(1.0, 2, False, "din", "din")], [ours], []):
        assert judge_semantics(measured, ROWS, 200, 0) is None


def test_models_of_other_seeds_are_compared_over_users() -> None:
    plain = _scores(3.0, 2, False, "plain")
    plain = plain._replace(seeds=(0,), live=plain.test[:1])
    verdict = judge_semantics([_scores(0.5, 1, True, "ours"), plain], ROWS, 200, 0)
    assert verdict is not None
    assert verdict["unit"] == "users"
    assert verdict["sure"]
