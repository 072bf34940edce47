"""Clicks follow the network's scores; graphs score as torch."""

import numpy as np
import pytest
import torch

from lab.reference.clicks import new_catalogue, new_clicks
from lab.reference.graphs import examples, plain_graph, tiled_graph
from lab.reference.inputs import random_feeds, tiled
from msd.metrics import measure_pooled
from tests.lab.reference.small import SMALL, greatest, network, run, scores


def test_clicks_follow_the_networks_scores_and_requests_are_of_one_user() -> None:
    reference = network()
    clicks = new_clicks(reference, new_catalogue(SMALL, 500, 0), 200, 20, 1)
    feeds = [clicks.request(number) for number in range(200)]
    inputs = [tuple(torch.from_numpy(one[name]) for name in reference.inputs) for one in feeds]
    chances = np.concatenate([scores(reference, one)[0] for one in inputs])
    found = measure_pooled(clicks.clicked.ravel().astype(float), chances.astype(float))

    assert found["auc"] > 0.55
    assert found["predicted_over_observed"] == pytest.approx(1, abs=0.1)
    assert set(np.unique(clicks.clicked)) == {0, 1}
    present = clicks.history >= 0
    assert present[:, 0].all()
    assert 0 < present.mean() < 1
    assert all(feeds[7][name].shape == SMALL.shape(name, 1) for name in ("user_fields", "user_vector", "history_mask"))
    assert all(feeds[7][name].shape == SMALL.shape(name, 20) for name in ("item_fields", "item_vector"))
    assert not feeds[7]["history"][feeds[7]["history_mask"] == 0].any()
    assert np.array_equal(feeds[7]["history_mask"][0] > 0, present[7])


@pytest.mark.parametrize("candidates", [1, 40])
def test_graphs_score_as_torch(candidates: int) -> None:
    plain = network()
    feeds = random_feeds(SMALL, candidates, seed=1)
    expected = scores(plain, examples(plain, SMALL, candidates, seed=1))

    assert greatest(run(plain_graph(plain, SMALL), feeds), expected) < 1e-5
    assert greatest(run(tiled_graph(plain, SMALL), tiled(feeds)), expected) < 1e-5
