"""The count model learns apart from the network, sees counts alone, and weighs what valid says it is worth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd.dataset.split import Part
from msd.ranker.batch import batch_opinions
from msd.ranker.calibrate import fit_blend
from msd.ranker.model import Ranker, RankerConfig
from msd.training.train import Judge, TrainConfig, predict_logits, predict_opinions
from tests.ranker.made import SHORT, ShortRun, World, train_quickly


def _ranker(world: World) -> Ranker:
    assert isinstance(world.model.ranker, Ranker)
    return world.model.ranker


def test_scores_are_the_blend_of_both_by_the_age_of_counts(world: World) -> None:
    test = world.features.of_part(Part.TEST)
    network, counts, age = predict_opinions(world.model, world.features, test)
    fresh, old = _ranker(world).blend.double().numpy()
    weights = fresh[:, None] + age * (old - fresh)[:, None]
    np.testing.assert_allclose(
        predict_logits(world.model, world.features, test), weights[0] * network + weights[1] * counts, atol=1e-5
    )
    assert 0 <= age.min() <= age.max() <= 1 + 1e-6
    assert age.max() > 0.1
    assert not predict_opinions(world.model, world.features.live(), test)[2].any()


def test_the_count_model_sees_neither_ids_nor_vectors_nor_history(world: World) -> None:
    features, test = world.features, world.features.of_part(Part.TEST)
    stranger = replace(
        features,
        user=replace(features.user, categorical=torch.zeros_like(features.user.categorical)),
        item=replace(
            features.item,
            categorical=torch.zeros_like(features.item.categorical),
            vectors=torch.zeros_like(features.item.vectors),
        ),
        history=torch.full_like(features.history, -1),
    )
    network, counts, _ = predict_opinions(world.model, features, test)
    other, same, _ = predict_opinions(world.model, stranger, test)
    assert np.array_equal(counts, same)
    assert not np.allclose(network, other, atol=1e-2)


def test_it_is_trained_by_itself_and_then_stays(world: World, short: ShortRun) -> None:
    """Whatever the network does: for as long as it is trained, and in fine-tuning, the count model is the same."""
    labels = world.features.labels.numpy()[valid := world.features.of_part(Part.VALID)]
    counts = [predict_opinions(model, world.features.live(), valid)[1] for model in (short.model, world.model)]
    assert np.array_equal(*counts)
    assert roc_auc_score(labels, counts[0]) > 0.55
    assert not any(weight.requires_grad for weight in _ranker(world).counts.parameters())  # type: ignore[union-attr]
    assert all(logits.requires_grad is has for logits, has in zip(_opinions(world), (True, False, False), strict=True))


def _opinions(world: World) -> list[torch.Tensor]:
    return batch_opinions(world.model, world.features, world.features.of_part(Part.TRAIN)[:8])


def test_weights_are_found_by_age_and_what_counts_against_is_left_out() -> None:
    rng = np.random.default_rng(0)
    network, counts = rng.normal(0, 1.5, (2, 40_000))
    age = np.where(rng.random(40_000) < 0.5, 0.0, rng.random(40_000))
    logits = (0.8 - 0.3 * age) * network + (0.6 - 0.6 * age) * counts
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)

    assert fit_blend(network, counts, age, labels) == pytest.approx(np.array([[0.8, 0.6], [0.5, 0.0]]), abs=0.07)
    assert fit_blend(network, -counts, age, labels)[:, 1].tolist() == [0.0, 0.0]
    none = np.zeros_like(age)
    fresh, old = fit_blend(network, counts, none, labels)
    assert fresh.tolist() == old.tolist()
    assert fit_blend(-network, -counts, age, labels).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_valid_is_seen_with_live_counts_unless_said(world: World, tmp_path: Path) -> None:
    labels = world.features.labels.numpy()[world.features.of_part(Part.VALID)]
    assert np.array_equal(Judge(world.features, live=True).labels, labels)
    live, frozen = (Judge(world.features, live=one).auc(world.model) for one in (True, False))
    assert live == pytest.approx(Judge(world.features.live(), live=False).auc(world.model))
    assert live != frozen
    assert max(point.valid_auc for point in world.curve) == pytest.approx(live)
    _, curve = train_quickly(world.features, tmp_path, replace(SHORT, live=False))
    assert curve[0].valid_auc != world.curve[0].valid_auc
    assert TrainConfig().live


def test_a_ranker_may_be_without(world: World) -> None:
    model = Ranker(world.schema, RankerConfig(counts=()))
    assert model.counts is None
