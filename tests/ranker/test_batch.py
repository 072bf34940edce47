"""Adaptors, and what training hides: ids and counts of new items, how counts stood before they were known so well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from msd.contract.schema import STATE_FEATURES
from msd.ranker.batch import Adaptor, Corruption, batch_logits
from msd.ranker.model import BLOCKS
from msd.student.record import HEADS, VECTOR_DIM
from tests.ranker.made import World

NOTHING_HIDDEN = Corruption(aged_user=0.0, aged_item=0.0, unknown=0.0, without_vector=0.0, new_item=0.0)


def _vectors(count: int) -> torch.Tensor:
    torch.manual_seed(7)
    spread = torch.linspace(2.0, 0.1, VECTOR_DIM)
    return torch.randn(count, VECTOR_DIM) * spread


def test_adapted_blocks_have_the_length_that_cosines_count_on() -> None:
    adaptor, vectors = Adaptor(VECTOR_DIM, 12), _vectors(50)
    adaptor.start_at(vectors)
    adapted = adaptor(vectors)
    for block in adapted.chunk(BLOCKS, -1):
        np.testing.assert_allclose(block.norm(dim=-1).detach(), np.sqrt(6), rtol=1e-3)


def test_one_block_is_of_meaning_and_one_of_words() -> None:
    adaptor, vectors = Adaptor(VECTOR_DIM, 8), _vectors(6)
    other = vectors.clone()
    other[:, HEADS["words"]] += 1.0
    with torch.no_grad():
        before, after = adaptor(vectors), adaptor(other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_an_adaptor_starts_at_the_principal_components() -> None:
    adaptor, vectors = Adaptor(VECTOR_DIM, 8), _vectors(300)
    adaptor.start_at(vectors)
    meaning = vectors[:, : HEADS["words"].start]
    centred = (meaning - meaning.mean(0)).numpy()
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    with torch.no_grad():
        found = adaptor.project[0](meaning).numpy()
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-3)
    assert found.std() == pytest.approx(1.0, abs=0.01)
    components = centred @ directions[:4].T
    for column, expected in zip(found.T, components.T, strict=True):
        assert abs(np.corrcoef(column, expected)[0, 1]) > 0.9999


def test_few_vectors_are_a_start_too() -> None:
    adaptor = Adaptor(VECTOR_DIM, 8)
    adaptor.start_at(_vectors(2))
    with torch.no_grad():
        assert torch.isfinite(adaptor(_vectors(2))).all()


@pytest.fixture
def seen(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the network is asked with, for the training rows of one batch."""
    noted: dict[str, torch.Tensor] = {}
    score = world.model.ranker.score

    def note(tensors: dict[str, torch.Tensor], target: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        noted.update(tensors, target=target)
        return score(tensors, target, history)

    monkeypatch.setattr(world.model.ranker, "score", note)
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
