"""Clicks follow their stated probabilities; training finds some of what made them, and is done once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.graphs import examples, plain_graph, tiled_graph
from lab.reference.inputs import random_feeds, tiled
from lab.reference.network import NETWORKS, ReferenceNetwork
from lab.reference.training import trained, weights_of
from msd.contract.errors import MsdError
from msd.metrics import measure_pooled
from tests.lab.reference.small import BRIEF, SMALL, Output, greatest, network, run, scores


def _clicks(seed: int, requests: int = 50) -> Clicks:
    return new_clicks(new_catalogue(SMALL, 0), SMALL, requests, 20, seed)


def _quality(clicks: Clicks, chances: Output) -> dict[str, float]:
    return measure_pooled(clicks.clicked.ravel().astype(float), chances.ravel().astype(float))


def test_clicks_are_as_frequent_as_their_chances_and_requests_are_of_one_user() -> None:
    clicks = _clicks(1, requests=400)
    deviation = np.sqrt((clicks.chances * (1 - clicks.chances)).sum())

    assert abs(clicks.clicked.sum() - clicks.chances.sum()) < 4 * deviation
    assert _quality(clicks, clicks.chances)["auc"] > 0.75
    assert set(np.unique(clicks.clicked)) == {0, 1}
    # Both sides and the history matter.
    assert np.ptp(clicks.chances.mean(1)) > 0.1
    assert (np.ptp(clicks.chances, axis=1) > 0.1).mean() > 0.9
    present = clicks.history >= 0
    assert present[:, 0].all()
    assert 0 < present.mean() < 1
    feeds = clicks.request(7)
    assert all(feeds[name].shape == SMALL.shape(name, 1) for name in ("user_fields", "user_vector", "history_mask"))
    assert all(feeds[name].shape == SMALL.shape(name, 20) for name in ("item_fields", "item_vector"))
    assert not feeds["history"][feeds["history_mask"] == 0].any()
    assert np.array_equal(feeds["history_mask"][0] > 0, present[7])


def test_training_beats_a_constant_and_is_done_once(tmp_path: Path) -> None:
    held, steps = _clicks(1, requests=60), list[tuple[int, int]]()

    def found(network: ReferenceNetwork) -> Output:
        feeds = held.rows(np.arange(60).repeat(20), held.candidates.ravel())
        network.tiled = True
        return scores(network, tuple(torch.from_numpy(feeds[name]) for name in network.inputs))[0]

    first = found(trained("reference", 0, tmp_path, SMALL, BRIEF, lambda *step: steps.append(step)))
    assert 0.55 < _quality(held, first)["auc"] < _quality(held, held.chances)["auc"]
    assert _quality(held, first)["normalised_entropy"] < 0.99
    assert steps[-1] == (75, 75)

    again = trained("reference", 0, tmp_path, SMALL, BRIEF, lambda *_: pytest.fail("trained again"))
    assert np.array_equal(found(again), first)

    other = trained("reference", 0, tmp_path, SMALL, replace(BRIEF, seed=1), lambda *step: steps.append(step))
    assert len(steps) == 150
    assert not np.array_equal(found(other), first)

    weights_of(tmp_path, "reference", 0).write_bytes(b"no weights")
    with pytest.raises(MsdError, match=r"weights\.safetensors: not the weights that were trained .*delete the folder"):
        trained("reference", 0, tmp_path, SMALL, replace(BRIEF, seed=1), lambda *_: None)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("candidates", [1, 40])
def test_graphs_score_as_torch(name: str, candidates: int) -> None:
    plain = network(name)
    feeds = random_feeds(SMALL, candidates, seed=1)
    expected = scores(plain, examples(plain, SMALL, candidates, seed=1))

    assert greatest(run(plain_graph(plain, SMALL), feeds), expected) < 1e-5
    assert greatest(run(tiled_graph(plain, SMALL), tiled(feeds)), expected) < 1e-5
