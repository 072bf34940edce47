"""What training hides: ids and counts of new items, how counts stood before they were known so well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from msd.contract.schema import STATE_FEATURES
from msd.ranker.batch import Corruption
from tests.ranker.made import World, batch_logits

NOTHING_HIDDEN = Corruption(aged_user=0.0, aged_item=0.0, unknown=0.0, without_vector=0.0, new_item=0.0)


@pytest.fixture
def seen(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the network is asked with, for the training rows of one batch."""
    noted: dict[str, torch.Tensor] = {}
    opinions = world.model.ranker.opinions

    def note(tensors: dict[str, torch.Tensor], target: torch.Tensor, history: torch.Tensor) -> list[torch.Tensor]:
        noted.update(tensors, target=target)
        return opinions(tensors, target, history)

    monkeypatch.setattr(world.model.ranker, "opinions", note)
    return noted


def _ask(world: World, corruption: Corruption) -> None:
    batch_logits(world.model, world.features, np.arange(200), corruption, np.random.default_rng(0))


def test_a_new_item_keeps_its_features_and_vector_but_no_id_and_no_counts(
    world: World, seen: dict[str, torch.Tensor]
) -> None:
    _ask(world, NOTHING_HIDDEN)
    whole = dict(seen)
    _ask(world, replace(NOTHING_HIDDEN, new_item=1.0))
    schema = world.schema
    place = schema.columns["item_id"]
    assert not seen["item_categorical"][:, place].any()
    others = [column for column in range(schema.categorical_width("item")) if column != place.start]
    assert torch.equal(seen["item_categorical"][:, others], whole["item_categorical"][:, others])
    assert torch.equal(seen["item_semantic"], whole["item_semantic"])
    numbers = schema.numeric_width("item")
    counts = slice(numbers, numbers + len(STATE_FEATURES))
    assert torch.equal(seen["item_dense"][:, :numbers], whole["item_dense"][:, :numbers])
    assert torch.equal(seen["item_dense"][:, counts], world.features.item.unknown_dense[counts].expand(200, -1))
    assert torch.equal(seen["user_dense"], whole["user_dense"])
    # Nor does attention, or Fusion, see which item it is.
    nameless = world.model.ranker.represent_items(seen["item_categorical"], seen["item_semantic"])
    assert torch.equal(seen["target"], nameless)
    assert not torch.allclose(nameless, whole["target"])


def test_sides_age_apart(world: World, seen: dict[str, torch.Tensor]) -> None:
    _ask(world, replace(NOTHING_HIDDEN, aged_user=1.0))
    assert torch.equal(seen["item_dense"], world.features.item.dense[:200])
    draws = world.features.user.aged_dense[:, :200]
    drawn = (seen["user_dense"] == draws).all(-1)
    assert drawn.any(0).all()
    # Several draws are in use, not one for all rows.
    assert len({tuple(column) for column in drawn.T.tolist()}) > 1


def test_the_features_themselves_are_left_alone(world: World, seen: dict[str, torch.Tensor]) -> None:
    before = world.features.item.dense.clone(), world.features.item.categorical.clone()
    _ask(world, replace(NOTHING_HIDDEN, new_item=1.0))
    assert torch.equal(world.features.item.dense, before[0])
    assert torch.equal(world.features.item.categorical, before[1])


def test_nothing_is_hidden_where_nothing_is_asked_to_be(world: World, seen: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        batch_logits(world.model, world.features, np.arange(50))
    assert torch.equal(seen["item_dense"], world.features.item.dense[:50])
