"""The leaner model is smaller where it says; it is as good only where the rows show it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.race.leaner import AUC_MARGIN, Study, compared, study_leaner
from lab.race.runners import in_onnxruntime
from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.graphs import plain_graph
from lab.reference.inputs import random_feeds
from lab.reference.network import made
from lab.reference.training import weights_of
from tests.lab.reference.small import BRIEF, SMALL, network


@pytest.fixture(scope="module")
def rows() -> Clicks:
    return new_clicks(new_catalogue(SMALL, 0), SMALL, 150, 20, 3)


def _noisy(rows: Clicks, seed: int, much: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(rows.chances.shape)
    logits = np.log(rows.chances / (1 - rows.chances)) + much * noise
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def test_lean_model_differs_in_three_smaller_parts() -> None:
    before, after = made("reference", SMALL, 0), made("lean", SMALL, 0)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (before, after)]

    assert {name.split(".")[0] for name, _ in shapes[0].items() ^ shapes[1].items()} == {"cross", "attention", "mlp"}
    assert sum(map(np.prod, shapes[1].values())) < sum(map(np.prod, shapes[0].values()))


@pytest.mark.parametrize("name", ["reference", "lean"])
def test_empty_places_of_the_history_get_no_attention(name: str) -> None:
    feeds = random_feeds(SMALL, 9, 0)
    run = in_onnxruntime(plain_graph(network(name), SMALL))
    before = run(feeds)[0]
    history = feeds["history"].copy()
    history[feeds["history_mask"] == 0] = 100

    assert np.array_equal(run({**feeds, "history": history})[0], before)
    history[feeds["history_mask"] != 0] = 1
    assert not np.array_equal(run({**feeds, "history": history})[0], before)


def test_model_is_as_good_as_itself_but_not_as_one_that_knows_more(rows: Clicks) -> None:
    reference = [_noisy(rows, seed, 0.3) for seed in range(3)]
    same = compared(rows, reference, reference)
    worse = compared(rows, reference, [_noisy(rows, seed, 1.5) for seed in range(3)])

    assert same.as_good
    assert compared(rows, reference[:2], reference[:2]).as_good is None
    assert same.auc.ci95 == (0.0, 0.0)
    assert not worse.as_good
    assert worse.auc.difference == pytest.approx(np.mean(worse.auc.by_seed))
    assert worse.auc.difference == pytest.approx(worse.auc.lean - worse.auc.reference)
    assert worse.auc.difference < -AUC_MARGIN
    assert worse.logloss.difference > 0


def test_mean_difference_within_the_margin_is_not_enough(rows: Clicks) -> None:
    """If seeds differ by more than the margin, it is open which model is better."""
    found = compared(rows, [_noisy(rows, seed, 0.8) for seed in range(3)], [_noisy(rows, 9 + i, 0.8) for i in range(3)])

    assert found.auc.ci95 is not None
    assert found.auc.ci95[0] < -AUC_MARGIN
    assert not found.as_good


def test_each_seed_is_trained_once(tmp_path: Path) -> None:
    study = Study(2, requests=40, candidates=10)
    found = study_leaner(tmp_path, SMALL, BRIEF, study, lambda *_: None)

    assert all(weights_of(tmp_path, name, seed).exists() for name in ("reference", "lean") for seed in (0, 1))
    again = study_leaner(tmp_path, SMALL, BRIEF, study, lambda *_: pytest.fail("trained again"))
    assert again == found
