"""Training learns, stops early at its best, goes on where it was cut, and ends at the same weights every time."""

import copy
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.batch import (
    Corruption,
    Hiding,
    TrainedRanker,
    batch_opinions,
    count_tensors,
    event_tensors,
    taste_of,
    with_taste,
)
from msd.ranker.calibrate import fit_blend, fit_platt
from msd.ranker.features import Features, build_features
from msd.ranker.model import Ranker
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import load_vectors
from msd.training.train import (
    Judge,
    TrainConfig,
    TrainError,
    average_weights,
    predict,
    predict_logits,
    predict_opinions,
    random_runs,
    train_ranker,
)
from msd.training.train_command import training_bar
from msd.training.train_content import learn_prior, posterior_means, train_content
from tests.ranker.made import (
    CHECKPOINT,
    QUICK,
    SHORT,
    SMALL,
    Cut,
    Trained,
    World,
    assert_same_weights,
    cut_at,
    quiet,
    train_quickly,
)


def _valid(world: World) -> tuple[np.ndarray, np.ndarray]:
    rows = world.features.of_part(Part.VALID)
    return rows, world.features.labels.numpy()[rows].astype(np.float64)


def test_training_learns(world: World) -> None:
    rows, labels = _valid(world)
    assert roc_auc_score(labels, predict(world.model, world.features, rows)) > 0.6
    assert world.curve[-1].train_loss < world.curve[0].train_loss
    assert [point.epoch for point in world.curve] == list(range(1, len(world.curve) + 1))


def test_seed_determines_the_weights_beside_other_and_damaged_checkpoints(
    world: World, short: Trained, tmp_path: Path
) -> None:
    path = tmp_path / CHECKPOINT
    other, _ = train_quickly(world.features, tmp_path, replace(SHORT, seed=1))
    assert not torch.equal(other.ranker.head.weight, short[0].ranker.head.weight)
    with pytest.raises(Cut):
        train_ranker(world.features, SMALL, SHORT, path, "another", cut_at(1, 1))
    path.write_bytes(path.read_bytes()[:1000])
    again, curve = train_quickly(world.features, tmp_path, SHORT)
    assert_same_weights(again, short[0])
    assert curve == short[1]


TWICE = replace(QUICK, epochs=2)


@pytest.fixture(scope="module")
def uncut(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_quickly(world.features, tmp_path_factory.mktemp("uncut"), TWICE)


@pytest.mark.parametrize("at", [(1, 5), (2, 1)])
def test_resumed_run_equals_uninterrupted_run(
    at: tuple[int, int], world: World, uncut: Trained, tmp_path: Path
) -> None:
    (whole, curve), seen = uncut, list[int]()
    options = world.features, SMALL, TWICE, tmp_path / "cut" / CHECKPOINT, "cut"
    with pytest.raises(Cut):
        train_ranker(*options, cut_at(*at))
    again, again_curve = train_ranker(*options, lambda epoch, step, loss: seen.append(epoch))
    assert min(seen) == at[0]
    assert again_curve == curve
    assert_same_weights(again, whole)


@pytest.mark.parametrize(("power", "shares"), [(1.0, [1, 1, 1, 1]), (2.0, [1, 2, 3, 4]), (3.0, [1, 3, 6, 10])])
def test_weight_average_favours_later_steps(power: float, shares: list[int]) -> None:
    average, model, seen = nn.Linear(3, 2), nn.Linear(3, 2), []
    for step in range(1, 5):
        nn.init.normal_(model.weight)
        seen.append(model.weight.detach().clone())
        average_weights(average, model, step, power)
    expected = sum(share * weight for share, weight in zip(shares, seen, strict=True)) / sum(shares)
    torch.testing.assert_close(average.weight.detach(), expected)


def test_early_stopping_keeps_the_best_epoch(world: World, tmp_path: Path) -> None:
    config = TrainConfig(epochs=30, patience=2, largest_batch=64, averaging=20.0, learning_rate=2e-2)
    model, curve = train_quickly(world.features, tmp_path, config)
    best = max(curve, key=lambda point: point.valid_auc)
    assert len(curve) == best.epoch + config.patience < config.epochs
    rows, labels = _valid(world)
    assert roc_auc_score(labels, predict(model, world.features.live(), rows)) == pytest.approx(best.valid_auc, abs=1e-9)


def test_calibration_improves_valid_logloss(world: World) -> None:
    rows, labels = _valid(world)
    served = world.features.live()
    raw = predict_logits(world.model, served, rows)
    before, after = 1 / (1 + np.exp(-raw)), predict(world.model, served, rows)
    # It is fitted on live and frozen counts together, so that on live ones alone it may be a little worse.
    assert log_loss(labels, after) <= log_loss(labels, before) + 2e-3
    # Platt's line meets the click rate. A curve nearly does: shares of few rows with one label alone are moved inwards.
    assert after.mean() == pytest.approx(labels.mean(), abs=0.02)
    assert np.array_equal(np.argsort(after, kind="stable"), np.argsort(raw, kind="stable"))


def test_platt_recovers_slope_and_offset() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(np.float64)
    line = fit_platt(logits, labels)
    assert [line.outer_slope, line.values[0]] == pytest.approx([0.5, -1.0], abs=0.05)


@pytest.mark.parametrize("labels", [[0.0] * 4, [1.0] * 4, [1.0, 1.0, 0.0, 0.0]])
def test_platt_is_the_identity_without_information(labels: list[float]) -> None:
    # The last would turn the ranking round.
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    assert np.array_equal(fit_platt(logits, np.array(labels))(logits), logits)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_rejects_valid_rows_of_one_label(label: float, world: World, tmp_path: Path) -> None:
    rows, _ = _valid(world)
    labels = world.features.labels.clone()
    labels[torch.from_numpy(rows)] = label
    with pytest.raises(TrainError, match=rf"all {len(rows)} valid rows have label {label:g}, so that no epoch can be"):
        train_quickly(replace(world.features, labels=labels), tmp_path / "work", SHORT)
    assert not (tmp_path / "work").exists()


@settings(max_examples=30)
@given(users=st.lists(st.integers(0, 5), min_size=1, max_size=60), longest=st.integers(1, 9), seed=st.integers(0, 99))
def test_runs_partition_rows_by_user(users: list[int], longest: int, seed: int) -> None:
    rows = np.array(users, np.int32)
    runs = random_runs(rows, longest, np.random.default_rng(seed))
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(rows)))
    assert all(len(set(rows[run])) == 1 and 1 <= len(run) <= longest for run in runs)
    # No user is cut more often than it must be.
    assert len(runs) == sum(-(-count // longest) for count in np.unique(rows, return_counts=True)[1])


def test_runs_are_drawn_by_the_generator() -> None:
    rows = np.repeat(np.arange(6, dtype=np.int32), 20)
    first, again, other = (np.concatenate(random_runs(rows, 4, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len({tuple(np.sort(run)) for run in random_runs(rows, 4, np.random.default_rng(3))}) == 30
    assert any(sorted(run) != list(run) for run in random_runs(rows, 4, np.random.default_rng(3)))


def test_progress_clock_continues_after_an_epoch() -> None:
    seconds = [0.0]
    out = StringIO()
    with training_bar(Console(file=out, width=100, get_time=lambda: seconds[0]), "train", 2) as hear:
        for epoch in (1, 2, 3):
            for step in (1, 2):
                seconds[0] += 5.0
                hear(epoch, step, 0.25)
    assert "train, epoch 3" in out.getvalue()
    assert "2/2 0:00:30" in out.getvalue()
    assert "loss 0.2500" in out.getvalue()


def _ranker(world: World) -> Ranker:
    assert isinstance(world.model.ranker, Ranker)
    return world.model.ranker


def test_scores_blend_by_the_age_of_counts(world: World) -> None:
    test = world.features.of_part(Part.TEST)
    opinions = predict_opinions(world.model, world.features, test)
    experts, age = np.stack(opinions.experts), np.asarray(opinions.age)
    fresh, old = _ranker(world).blend.double().numpy()
    weights = fresh[:, None] + age * (old - fresh)[:, None]
    np.testing.assert_allclose(predict_logits(world.model, world.features, test), (weights * experts).sum(0), atol=1e-5)
    assert 0 <= age.min() <= age.max() <= 1 + 1e-6
    assert age.max() > 0.1
    assert not np.any(np.asarray(predict_opinions(world.model, world.features.live(), test).age))


def test_count_model_sees_only_counts(world: World) -> None:
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
        history_outcomes=torch.zeros_like(features.history_outcomes),
    )
    known, unknown = (np.stack(predict_opinions(world.model, seen, test).experts) for seen in (features, stranger))
    network, counts, content, _ = np.abs(known - unknown).max(1)
    assert counts == 0
    assert network > 1e-2
    assert content > 1e-2


def test_content_model_ranks_items_without_id_counts_or_history(world: World) -> None:
    features = world.features
    rows = features.of_part(Part.VALID, Part.TEST)
    nothing = replace(
        features,
        item=replace(features.item, dense=features.item.dense.clone(), categorical=features.item.categorical.clone()),
        history_outcomes=torch.zeros_like(features.history_outcomes),
    )
    nothing.item.dense[:, features.schema.numeric_width("item") : -1] = 0.0
    nothing.item.categorical[:, features.schema.columns["item_id"]] = 0
    content, same = (predict_opinions(world.model, view, rows).content for view in (features, nothing))
    assert content is not None
    assert same is not None
    assert torch.equal(content, same)
    assert roc_auc_score(features.labels.numpy()[rows], content) > 0.55


def test_content_model_guesses_what_a_missing_vector_would_add(world: World) -> None:
    """Where an item's category says all of its vector, the content model hardly misses the vector."""
    features, content = world.features, copy.deepcopy(_ranker(world).content)
    assert content is not None
    first = torch.from_numpy(features.item.entities.categorical[:, content.fields[0][0].start].astype(np.int64))
    normal = torch.Generator().manual_seed(0)
    vectors = torch.randn(content.fields[0][1], features.schema.semantic_width("item"), generator=normal)[first]
    adapted = world.model.adaptors.adapt(features).adapted
    features = replace(features, adapted={**adapted, "item": vectors})
    train_content(content, features)
    events = np.flatnonzero((features.parts == Part.TEST) & features.item.present[features.item.rows].numpy())
    tensors = event_tensors(features, events)
    bare = tensors | {
        "item_semantic": torch.zeros_like(tensors["item_semantic"]),
        "item_dense": tensors["item_dense"].clone(),
    }
    bare["item_dense"][:, -1] = 0.0
    whole, none = content(tensors)
    logits, guess = content(bare)
    assert not none.any()
    assert torch.std(logits - whole) < 0.7 * torch.std(logits - guess - whole)


def test_content_model_of_a_single_item_is_finite(world: World) -> None:
    features, content = world.features, _ranker(world).content
    assert content is not None
    items = features.item.entities
    only = replace(
        items,
        ids=items.ids[:1],
        categorical=items.categorical[[0, -1]],
        numeric=items.numeric[[0, -1]],
        place={items.ids[0]: 0},
    )
    alone = replace(features, item=replace(features.item, entities=only, rows=torch.zeros_like(features.item.rows)))
    vectors = {side: vectors[[0, -1]] for side, vectors in world.model.adaptors.adapt(features).adapted.items()}
    model = copy.deepcopy(content)
    train_content(model, replace(alone, adapted=vectors))
    assert all(torch.isfinite(weights).all() for weights in model.parameters())


def test_content_models_of_users_are_the_posterior_of_one_prior() -> None:
    """Of made-up users whose weights have a known prior: EM finds it, and a user without rows has its mean."""
    rng = np.random.default_rng(0)
    mean, spread, noise = np.array([0.3, -0.5]), np.array([0.6, 0.2]), 0.1
    weights = mean + spread * rng.normal(size=(2_000, 2))
    user = np.repeat(np.arange(2_000), 30)
    x = rng.normal(size=(len(user), 2))
    label = (x * weights[user]).sum(1) + np.sqrt(noise) * rng.normal(size=len(user))
    prior = learn_prior(user, x, label)
    assert prior.mean == pytest.approx(mean, abs=0.03)
    assert np.sqrt(np.diag(prior.covariance)) == pytest.approx(spread, abs=0.03)
    assert prior.noise == pytest.approx(noise, rel=0.03)
    found = posterior_means(user, x, label, 2_001, prior)
    assert np.abs(found[:-1] - weights).mean() < 0.07
    assert np.array_equal(found[-1], prior.mean)


def test_count_model_is_frozen_beside_the_network(world: World, short: Trained) -> None:
    """Whatever the network does: however long it is trained, the count model is the same."""
    # The valid rows alone are too few to tell 0.55 from chance.
    rows = world.features.of_part(Part.TRAIN, Part.VALID)
    counts = [
        np.asarray(predict_opinions(model, world.features.live(), rows).counts) for model in (short[0], world.model)
    ]
    assert np.array_equal(counts[0], counts[1])
    assert roc_auc_score(world.features.labels.numpy()[rows], counts[0]) > 0.55
    features = world.model.adaptors.adapt(world.features)
    opinions = batch_opinions(world.model, features, features.of_part(Part.TRAIN)[:8])
    assert not any(weight.requires_grad for weight in _ranker(world).counts.parameters())  # type: ignore[union-attr]
    assert [logits.requires_grad for logits in opinions.experts] == [True, False, False, False]


def test_taste_and_adaptors_are_frozen_beside_the_network(world: World, short: Trained) -> None:
    labels = world.features.labels.numpy()[valid := world.features.of_part(Part.VALID)]
    model, taste = world.model, _ranker(world).taste
    assert taste is not None
    assert isinstance(short[0].ranker, Ranker)
    assert short[0].ranker.taste is not None
    assert_same_weights(taste, short[0].ranker.taste)
    assert_same_weights(model.adaptors, short[0].adaptors)
    assert not any(weight.requires_grad for part in (taste, model.adaptors) for weight in part.parameters())
    with torch.no_grad():
        parts = taste_of(taste, model.adaptors.adapt(world.features), torch.from_numpy(valid))
        alone = taste.log_odds(count_tensors(world.features, valid), parts)
    assert roc_auc_score(labels, alone) > 0.55


def test_known_taste_equals_that_of_each_batch(world: World) -> None:
    ranker, rows = _ranker(world), world.features.of_part(Part.TRAIN)
    features = world.model.adaptors.adapt(world.features)
    assert ranker.taste is not None
    known = with_taste(ranker.taste, features, rows)
    shares = Corruption(unknown=0.3, without_vector=0.0)
    for hides in (False, True):
        fresh, cached = (
            batch_opinions(
                world.model, seen, rows, Hiding(shares, np.random.default_rng(0)) if hides else None
            ).network.detach()
            for seen in (features, known)
        )
        np.testing.assert_allclose(cached, fresh, atol=1e-5)
        assert fresh.std() > 0.1


def test_model_without_taste_ignores_the_history(world: World, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"taste": False, "crosses": ()})
    model, _ = train_ranker(world.features, config, SHORT, tmp_path / CHECKPOINT, "tasteless", quiet)
    rows, _ = _valid(world)
    without = replace(world.features, history_outcomes=torch.zeros_like(world.features.history_outcomes))
    assert not [name for name in model.state_dict() if "taste" in name]
    assert np.array_equal(predict(model, without, rows), predict(model, world.features, rows))
    assert not np.allclose(predict(world.model, without, rows), predict(world.model, world.features, rows), atol=1e-3)


def test_blend_is_fitted_by_age_without_negative_weights() -> None:
    rng = np.random.default_rng(0)
    network, counts = rng.normal(0, 1.5, (2, 40_000))
    age = np.where(rng.random(40_000) < 0.5, 0.0, rng.random(40_000))
    logits = (0.8 - 0.3 * age) * network + (0.6 - 0.6 * age) * counts
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)

    def blend(*experts: NDArray[np.float64], age: NDArray[np.float64] = age) -> NDArray[np.float64]:
        return fit_blend(np.stack(experts), age, labels)

    assert blend(network, counts) == pytest.approx(np.array([[0.8, 0.6], [0.5, 0.0]]), abs=0.07)
    assert blend(network, -counts)[:, 1].tolist() == [0.0, 0.0]
    fresh, old = blend(network, counts, age=np.zeros_like(age))
    assert fresh.tolist() == old.tolist()
    assert blend(-network, -counts).tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert blend(network, counts, rng.normal(size=len(age))) == pytest.approx(
        np.array([[0.8, 0.6, 0.0], [0.5, 0.0, 0.0]]), abs=0.07
    )


def test_blend_of_unknown_users_does_not_follow_users_seen_lately(world: World) -> None:
    model, valid = copy.deepcopy(world.model), world.features.of_part(Part.VALID)
    ranker, dense = model.ranker, world.features.user.dense.clone()
    assert isinstance(ranker, Ranker)
    labels, _ = world.features.outcomes(valid)
    logits = predict_logits(model, world.features, valid)
    # Of users seen a little longer ago, by chance, all that is said is right.
    dense[valid, ranker.ages] = torch.from_numpy(0.02 * ((labels > 0.5) == (logits > np.median(logits)))).float()
    features = replace(world.features, user=replace(world.features.user, dense=dense))

    def widest_of_anonymous(weight: float) -> float:
        Judge(features, live=False, anonymous=weight).blend(model)
        return float(np.abs(predict_logits(model, features.anonymous(), valid)).max())

    assert widest_of_anonymous(0.0) > 100
    assert widest_of_anonymous(Corruption().unknown) < 10


def test_valid_rows_have_live_counts_by_default(world: World, tmp_path: Path) -> None:
    labels = world.features.labels.numpy()[valid := world.features.of_part(Part.VALID)]

    def auc(trained: TrainedRanker, features: Features) -> float:
        return float(roc_auc_score(labels, predict_logits(trained, features, valid)))

    live, frozen = auc(world.model, world.features.live()), auc(world.model, world.features)
    assert live != frozen
    assert max(point.valid_auc for point in world.curve) == pytest.approx(live)
    model, curve = train_quickly(world.features, tmp_path, replace(SHORT, live=False))
    assert curve[0].valid_auc == pytest.approx(auc(model, world.features))
    assert curve[0].valid_auc != pytest.approx(auc(model, world.features.live()))
    assert TrainConfig().live


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_ranker_learns_as_on_a_cpu(tiny: Dataset, student: Path, tmp_path: Path) -> None:
    features = build_features(tiny, fit_schema(tiny), load_vectors(student))
    curves = []
    for device in ("cpu", "cuda"):
        checkpoint = tmp_path / device / "checkpoint.safetensors"
        model, curve = train_ranker(features.to(torch.device(device)), SMALL, QUICK, checkpoint, device, quiet)
        assert model.calibrator.knots.device.type == device
        curves.append(max(point.valid_auc for point in curve))
    assert abs(curves[0] - curves[1]) < 0.03
