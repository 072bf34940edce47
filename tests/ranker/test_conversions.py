"""A second head, for conversions of clicks, on a log whose law is known."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.metrics import calibration, expected_calibration_error, roc_auc
from msd.ranker.batch import both
from msd.ranker.calibrate import calibrate_delayed, choose_calibration
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from msd.training.folder import load_ranker
from msd.training.train import TrainConfig, TrainError, predict, predict_conversions, train_ranker
from tests.ranker.made import SMALL, World, dataset_of, quiet, save_world

USERS, ITEMS, SHOWN = 205, 60, 100

Floats = NDArray[np.float64]


def law(days_late: float = 0.0) -> tuple[Dataset, Floats]:
    """Impressions of 71 days, and the true probabilities [E] of a click's conversion. Users like some kinds of items;
    what is clicked most is bought least, and users differ in how much they buy. With `days_late`, on average,
    conversions have times, and those after the log are not in it."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(6, size=ITEMS)
    taste, lure, buys = rng.normal(0, 1, (USERS, 6)), rng.normal(0, 0.7, ITEMS), rng.normal(0, 0.7, USERS)
    worth = -1.0 * lure + rng.normal(0, 0.5, ITEMS)
    users = np.tile(np.arange(USERS), SHOWN)
    items = rng.integers(ITEMS, size=len(users))
    pctr = 1 / (1 + np.exp(-(-0.9 + taste[users, kinds[items]] + lure[items])))
    pcvr = 1 / (1 + np.exp(-(-1.0 + worth[items] + buys[users])))
    clicked = rng.random(len(users)) < pctr
    converted = clicked & (rng.random(len(users)) < pcvr)
    at = np.arange(len(users)) * 300
    due = at + np.floor(rng.exponential(days_late * 86_400, len(users)))
    seen = converted & (due <= at[-1])
    times = {"converted_at": [int(time) if is_seen else None for time, is_seen in zip(due, seen, strict=True)]}
    rows = zip(
        (f"u{user:03}" for user in users), (f"i{item:02}" for item in items), at, clicked.astype(int), strict=True
    )
    dataset = dataset_of(
        [(user, item, int(time), int(label)) for user, item, time, label in rows],
        events={"conversion": seen.astype(int).tolist(), **(times if days_late else {})},
        history={"length": 3},
        items={"item_id": [f"i{one:02}" for one in range(ITEMS)], "kind": [f"k{kind}" for kind in kinds]},
        features=[{"name": "kind", "side": "item", "kind": "categorical"}],
    )
    return dataset, pcvr


@dataclass(frozen=True)
class Learned:
    """A model that was trained on the law's log, its predictions of the test rows [n] `rows`, and the true ones."""

    world: World
    rows: NDArray[np.int64]
    pctr: Floats
    pcvr: Floats
    due: Floats


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """A model of 20,000 rows, without a count model."""
    dataset, due = law()
    schema, vectors = fit_schema(dataset, semantics=False), no_vectors()
    features = build_features(dataset, schema, vectors)
    config = SMALL.model_copy(update={"counts": ()})
    training = TrainConfig(epochs=3, learning_rate=1e-2)
    model, curve = train_ranker(features, config, training, tmp_path_factory.mktemp("law") / "checkpoint", "law", quiet)
    rows, live = features.of_part(Part.TEST), features.live()
    world = World(dataset, vectors, schema, features, model, curve)
    return Learned(world, rows, predict(model, live, rows), predict_conversions(model, live, rows), due[rows])


def test_conversions_are_ranked_and_calibrated_like_the_law(learned: Learned) -> None:
    features, due = learned.world.features, learned.due
    clicked, converted = features.outcomes(learned.rows)[0] > 0, features.converted(learned.rows)
    ours, best = (roc_auc(converted[clicked], one[clicked]) for one in (learned.pcvr, due))
    base = roc_auc(converted[clicked], learned.pctr[clicked])

    assert base < 0.5 < best - 0.08 < ours
    # Over the entire space, where it was never seen whether an impression would have converted.
    assert abs(learned.pcvr.mean() - due.mean()) < 0.03
    assert abs(learned.pcvr - due).mean() < 0.12
    assert expected_calibration_error(calibration(converted, learned.pctr * learned.pcvr)) < 0.03


def test_clicks_that_have_yet_to_convert_are_not_learned_as_negatives(tmp_path: Path) -> None:
    dataset, due = law(days_late=15)
    features = build_features(dataset, fit_schema(dataset, semantics=False), no_vectors())
    config, training = SMALL.model_copy(update={"counts": ()}), TrainConfig(epochs=3, learning_rate=1e-2)
    model, _ = train_ranker(features, config, training, tmp_path / "checkpoint", "late", quiet)
    rows = features.of_part(Part.TEST)
    pcvr, arrived = predict_conversions(model, features.live(), rows), features.share_arrived(rows)

    # Of what will come, little has come; the clicks' rate alone would be about that share of the law's.
    assert arrived.mean() < 0.35
    assert pcvr.mean() / due[rows].mean() == pytest.approx(1, abs=0.2)


def test_calibration_allows_for_what_has_not_arrived() -> None:
    rng = np.random.default_rng(0)
    logits, arrived = rng.normal(size=40_000), rng.random(40_000)
    labels = (rng.random(40_000) < arrived / (1 + np.exp(-(1.5 * logits - 0.5)))).astype(np.float64)
    found = calibrate_delayed(logits, labels, arrived)

    np.testing.assert_allclose(found(np.array([-1.0, 0.0, 1.0])), [-2.0, -0.5, 1.0], atol=0.1)
    whole = calibrate_delayed(logits, labels, np.ones(40_000))
    np.testing.assert_array_equal(whole(logits), choose_calibration(logits, labels)(logits))


def test_logit_of_a_product_of_probabilities() -> None:
    logits, others = torch.randn(40, dtype=torch.float64) * 8, torch.randn(40, dtype=torch.float64) * 8

    torch.testing.assert_close(torch.sigmoid(both(logits, others)), torch.sigmoid(logits) * torch.sigmoid(others))


def test_conversion_head_is_saved_and_absent_without_conversions(
    learned: Learned, world: World, tmp_path: Path
) -> None:
    again, _ = load_ranker(save_world(tmp_path, learned.world))

    assert np.array_equal(predict_conversions(again, learned.world.features.live(), learned.rows), learned.pcvr)
    assert not any("conversion" in name for name in world.model.state_dict())


def test_rejects_valid_clicks_that_never_convert() -> None:
    made, _ = law()
    valid = pl.Series(split_events(made.events, made.config) == Part.VALID)
    dataset = replace(made, events=made.events.with_columns(pl.col("conversion") * ~valid))
    features = build_features(dataset, fit_schema(dataset, semantics=False), no_vectors())

    with pytest.raises(TrainError, match=r"of \d+ valid clicks 0 converted"):
        train_ranker(features, SMALL, TrainConfig(), Path("unused"), "never", quiet)
