"""Each rung takes away what it says and nothing else, and scores as the service would score it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd.contract.rows import RowCodec
from msd.dataset.split import Part
from msd.evaluation.degradation import degraded, encoded, measure_cold_ads
from msd.ranker.features import Features
from msd.student.vectors import LevelVectors
from msd.training.train import predict
from tests.ranker.made import World
from tests.reference.request import read_request
from tests.reference.schema import Schema
from tests.reference.tensors import Rows, assemble, degraded_candidates


def _rungs(world: World) -> dict[str, Features]:
    return dict(degraded(world.features))


def _test(world: World) -> np.ndarray:
    return world.features.of_part(Part.TEST)


def test_rungs_without_vectors_only_for_models_with_vectors(world: World, plain_world: World) -> None:
    every = [
        "item unknown",
        "item unknown, features given",
        "item without vector",
        "user unknown",
        "user unknown, no history",
        "aged counts",
    ]
    assert list(_rungs(world)) == every
    assert list(_rungs(plain_world)) == [name for name in every if "vector" not in name]


def test_rungs_change_scores_but_not_the_features(world: World) -> None:
    before = predict(world.model, world.features, _test(world))
    for name, less in _rungs(world).items():
        assert not np.allclose(predict(world.model, less, _test(world)), before, atol=1e-3), name
    assert np.array_equal(predict(world.model, world.features, _test(world)), before)


@pytest.mark.parametrize(
    ("name", "rung"),
    [
        ("world", "item unknown, features given"),
        ("plain_world", "item unknown, features given"),
        ("world", "item unknown, features and text given"),
    ],
)
def test_cold_ad_equals_the_services(name: str, rung: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    less, schema = encoded(world.features) if "text" in rung else _rungs(world)[rung], world.schema
    test = _test(world)[:40]
    user, item = RowCodec(schema, "user", "0" * 32), RowCodec(schema, "item", "0" * 32)
    known = dict(zip(world.dataset.items["item_id"], world.dataset.items.iter_rows(named=True), strict=True))
    for event in test:
        row = world.dataset.events.row(int(event), named=True)
        features = {field: known.get(row["item_id"], {}).get(field) for field in schema.settable["item"]}
        body = {
            "user_id": "stranger",
            "at": row["at"],
            "candidates": {"id": ["new"]},
            "items": {"new": {"features": features}},
        }
        reference = Schema(schema.model_dump())
        checked = read_request(json.dumps(body).encode(), reference)
        given = less.item.rows[event].long()
        has_text = "text" in rung and bool(world.features.item.present[world.features.item.rows[event].long()])
        vector = np.ones((1, schema.semantic_width("item")), np.float16)
        cold = Rows(item.encoded(vector) if has_text else item.missing, np.zeros(1, bool))
        nobody = Rows(user.missing, np.zeros(1, bool))
        tensors = assemble(reference, checked, float(row["at"]), nobody, cold, [])
        np.testing.assert_array_equal(less.item.categorical[given], tensors["item_categorical"][0])
        np.testing.assert_allclose(less.item.dense[event], tensors["item_dense"][0], atol=1e-6)
        assert bool(less.item.present[given]) == has_text
        original = world.features.item.rows[event].long()
        assert not has_text or torch.equal(less.item.vectors[given], world.features.item.vectors[original])
        described = "prior" if all(value is None for value in features.values()) else "category_prior"
        assert degraded_candidates(checked, cold) == {"new": "encoded" if has_text else described}
    assert predict(world.model, less, test).std() > 0.01


def test_aged_counts_change_only_counts(world: World) -> None:
    less, whole = _rungs(world)["aged counts"], world.features
    for old, fresh in ((less.user, whole.user), (less.item, whole.item)):
        numbers = world.schema.numeric_width(fresh.entities.side)
        assert torch.equal(old.dense[:, :numbers], fresh.dense[:, :numbers])
        assert torch.equal(old.dense[:, -1], fresh.dense[:, -1])
        ages = slice(numbers + 2, numbers + 3)
        assert (old.dense[:, ages] > fresh.dense[:, ages] + 0.1).float().mean() > 0.5
        assert torch.equal(old.rows, fresh.rows)


def test_item_without_vector_keeps_its_row_and_histories(world: World) -> None:
    less, item = _rungs(world)["item without vector"].item, world.features.item
    assert torch.equal(less.categorical[less.rows.long()], item.categorical[item.rows.long()])
    assert torch.equal(less.dense[:, :-1], item.dense[:, :-1])
    assert not less.dense[:, -1].any()
    assert not less.present[less.rows.long()].any()
    history = world.features.history[world.features.history >= 0].long()
    assert torch.equal(less.present[history], item.present[history])
    assert torch.equal(less.vectors[history], item.vectors[history])
    # The unknown row, which pads histories, is still the last and still nothing.
    assert torch.equal(less.categorical[less.entities.unknown], item.categorical[item.entities.unknown])
    assert not less.present[less.entities.unknown]


def test_unknown_item_and_user_have_the_unknown_row(world: World) -> None:
    rungs, item = _rungs(world), world.features.item
    # Its values are the service's, by the tests of features.
    unknown = rungs["item unknown"].item
    assert (unknown.rows == item.entities.unknown).all()
    assert (unknown.dense == item.unknown_dense).all()
    with_history, without = rungs["user unknown"], rungs["user unknown, no history"]
    assert torch.equal(with_history.history, world.features.history)
    assert (without.history == -1).all()
    assert not without.history_outcomes.any()
    for less in (with_history, without):
        assert (less.user.rows == world.features.user.entities.unknown).all()
        assert torch.equal(less.user.dense[5], world.features.user.unknown_dense)
        assert torch.equal(less.item.rows, world.features.item.rows)


def _kept(world: World, other: bool = False) -> LevelVectors:
    """Every third item with a vector: its own, or that of the next such item."""
    held = world.vectors.items
    rows = np.arange(0, len(held.ids), 3)
    return LevelVectors([held.ids[row] for row in rows], held.vectors[np.roll(rows, 1) if other else rows])


def _events(world: World) -> np.ndarray:
    events = world.features.of_part(Part.TEST)
    place = world.features.item.entities.place
    kept = [place[id_] for id_ in _kept(world).ids if id_ in place]
    return events[np.isin(world.features.item.rows.numpy()[events], kept)]


def test_cold_ads_are_rows_of_withheld_items(world: World) -> None:
    found = measure_cold_ads(world.model, world.features, _kept(world), Part.TEST, 100)
    events = _events(world)
    labels = world.features.labels.numpy()[events]
    assert found is not None
    assert found.rows == len(events) < len(world.features.of_part(Part.TEST))
    assert found.items == len(np.unique(world.features.item.rows.numpy()[events]))
    for name, less in {
        "row": world.features,
        "category_prior": dict(degraded(world.features))["item unknown, features given"],
        "taught": encoded(world.features),
    }.items():
        assert found.auc[name] == pytest.approx(roc_auc_score(labels, predict(world.model, less, events)))
    assert found.gain == pytest.approx(found.auc["encoded"] - found.auc["category_prior"])
    assert found.ci95 is not None
    assert found.ci95[0] <= found.gain <= found.ci95[1]
    assert found.pay == (found.ci95[0] > 0)


def test_untaught_vector_replaces_the_taught_one(world: World) -> None:
    own, other = (
        measure_cold_ads(world.model, world.features, _kept(world, one), Part.TEST, 100) for one in (False, True)
    )
    assert own
    assert other
    assert own.auc["encoded"] == own.auc["taught"] == other.auc["taught"]
    assert other.auc["encoded"] != own.auc["encoded"]
    # By hand: the vectors of all rows as they would be, had the student never been taught.
    item, given = world.features.item, _kept(world, True)
    vectors = item.vectors.clone()
    for one, vector in zip(given.ids, given.vectors, strict=True):
        vectors[item.entities.place[one]] = torch.from_numpy(vector)
    events = _events(world)
    by_hand = encoded(replace(world.features, item=replace(item, vectors=vectors)))
    twins = encoded(world.features, given)
    assert torch.equal(twins.item.vectors[: item.entities.unknown], item.vectors[: item.entities.unknown])
    places = twins.item.rows[torch.from_numpy(events)].long()
    assert torch.equal(twins.item.vectors[places], by_hand.item.vectors[places])


def test_cold_ads_without_rows_are_none(world: World, plain_world: World) -> None:
    held = _kept(world)
    nobody = LevelVectors([], held.vectors[:0])
    strangers = LevelVectors([f"nobody's {id_}" for id_ in held.ids], held.vectors)
    for of, vectors in ((plain_world, held), (world, nobody), (world, strangers)):
        assert measure_cold_ads(of.model, of.features, vectors, Part.TEST, 100) is None


def test_single_cold_item_has_no_interval(world: World) -> None:
    for one, vector in zip(_kept(world).ids, _kept(world).vectors, strict=True):
        found = measure_cold_ads(world.model, world.features, LevelVectors([one], vector[None]), Part.TEST, 100)
        if found is not None:
            assert (found.items, found.ci95, found.pay) == (1, None, False)
            return
    raise AssertionError("no item has test rows of both labels")
