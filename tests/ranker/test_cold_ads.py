"""What a new ad's text is worth: by the rows of items that were kept from the student, and by nobody else's vectors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd.dataset.split import Part
from msd.evaluation.degradation import degraded, encoded, measure_cold_ads
from msd.student.vectors import LevelVectors
from msd.training.train import predict
from tests.ranker.made import World


def _kept(world: World, other: bool = False) -> LevelVectors:
    """Every third item with a vector: its own, or that of the next such item."""
    held = world.vectors.items
    rows = np.arange(0, len(held.ids), 3)
    return LevelVectors([held.ids[row] for row in rows], held.vectors[np.roll(rows, 1) if other else rows])


def _events(world: World) -> np.ndarray:
    events = world.features.of_part(Part.TEST)
    place = world.features.item.entities.place
    kept = [place[one] for one in _kept(world).ids if one in place]
    return events[np.isin(world.features.item.rows.numpy()[events], kept)]


def test_the_rows_are_those_of_the_items_that_were_kept_from_the_student(world: World) -> None:
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


def test_an_untaught_vector_stands_in_for_the_one_that_was_learned_by_heart(world: World) -> None:
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


def test_what_cannot_be_measured_is_said_to_be_so(world: World, plain_world: World) -> None:
    held = _kept(world)
    assert measure_cold_ads(plain_world.model, plain_world.features, held, Part.TEST, 100) is None
    nobody = LevelVectors([], held.vectors[:0])
    assert measure_cold_ads(world.model, world.features, nobody, Part.TEST, 100) is None
    strangers = LevelVectors([f"nobody's {one}" for one in held.ids], held.vectors)
    assert measure_cold_ads(world.model, world.features, strangers, Part.TEST, 100) is None


def test_of_one_item_there_is_no_interval_so_that_it_is_not_said_to_pay(world: World) -> None:
    for one, vector in zip(_kept(world).ids, _kept(world).vectors, strict=True):
        found = measure_cold_ads(world.model, world.features, LevelVectors([one], vector[None]), Part.TEST, 100)
        if found is not None:
            assert (found.items, found.ci95, found.pay) == (1, None, False)
            return
    raise AssertionError("no item has test rows of both labels")
