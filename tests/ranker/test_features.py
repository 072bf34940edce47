"""Features are what the contract's encode and dense make of rows; adaptors start as principal components by block."""

import numpy as np
import pytest
import torch

from msd.contract.rows import RowCodec, RowSide, has_semantic
from msd.dataset.split import Part
from msd.ranker.adaptor import Adaptor, Adaptors
from msd.ranker.features import SideFeatures
from msd.ranker.taste import BLOCKS
from msd.student.record import HEADS, VECTOR_DIM
from native.columns import Counts, dense
from tests.ranker.made import World

SIDES: tuple[RowSide, ...] = ("user", "item")


def _side(world: World, side: RowSide) -> SideFeatures:
    return world.features.user if side == "user" else world.features.item


def _has_vector_column(world: World, side: RowSide) -> torch.Tensor:
    return _side(world, side).dense[:, -1]


def test_user_vector_counts_only_after_the_window(world: World) -> None:
    features = world.features
    in_window = torch.from_numpy(features.parts == Part.WINDOW)
    has_text = features.user.present[features.user.rows]
    assert 0 < has_text.sum() < len(has_text)
    assert torch.equal(features.knows_user, ~in_window)
    assert not _has_vector_column(world, "user")[in_window].any()
    assert torch.equal(_has_vector_column(world, "user").bool(), has_text & ~in_window)
    assert torch.equal(_has_vector_column(world, "item").bool(), features.item.present[features.item.rows])


def test_vectors_belong_to_their_ids_and_unknown_has_none(world: World) -> None:
    for side, level in (("user", world.vectors.users), ("item", world.vectors.items)):
        features = _side(world, side)  # type: ignore[arg-type]
        expected = [id_ in level.rows for id_ in features.entities.ids]
        assert features.present.tolist() == [*expected, False]
        for row, one in enumerate(features.entities.ids):
            vector = level.vectors[level.rows[one]] if one in level.rows else np.zeros(VECTOR_DIM)
            assert np.array_equal(features.vectors[row].numpy(), vector)
        assert not features.vectors[-1].any()


@pytest.mark.parametrize("side", SIDES)
def test_dense_equals_the_contracts_dense(world: World, side: RowSide) -> None:
    features, timeline = _side(world, side), world.features.timeline
    counts = timeline.user if side == "user" else timeline.item
    at = world.dataset.events["at"].to_numpy()
    for event in range(0, len(at), 97):
        entity = int(features.rows[event])
        numeric = features.entities.numeric[[entity]]
        known = features.present[[entity]].numpy() & np.array(
            [side == "item" or bool(world.features.knows_user[event])]
        )
        views = (features.dense, features.live_dense, *features.aged_dense)
        for found, of in zip(views, (counts.fresh, counts.live, *counts.aged), strict=True):
            one = Counts(*(column[[event]] for column in of))
            expected = dense(world.schema, side, numeric, one, known, float(at[event]))
            assert np.array_equal(found[event].numpy(), expected[0])


def test_unknown_row_equals_the_services(world: World) -> None:
    for side in SIDES:
        record = RowCodec(world.schema, side, "0" * 32).missing
        expected = dense(world.schema, side, record["numeric"], Counts.of(record), has_semantic(record), 1.7e9)
        assert np.array_equal(_side(world, side).unknown_dense.numpy(), expected[0])


def test_position_is_true_offline(world: World) -> None:
    schema = world.schema
    column = schema.columns["position"].start
    field = next(field for field in schema.indexed("context") if field.name == "position")
    found = world.features.context_categorical[:, column].tolist()
    assert found == [field.index[one] for one in world.dataset.events["position"]]
    assert len(set(found)) == 5


def test_parts_select_events_in_time_order(world: World) -> None:
    features = world.features
    picked = [features.of_part(part) for part in Part]
    assert sorted(np.concatenate(picked).tolist()) == list(range(len(features.labels)))
    assert all((np.diff(rows) > 0).all() for rows in picked)
    both = features.of_part(Part.WINDOW, Part.TRAIN)
    assert set(both) == {*picked[Part.WINDOW], *picked[Part.TRAIN]}


def _vectors(count: int) -> torch.Tensor:
    torch.manual_seed(7)
    spread = torch.linspace(2.0, 0.1, VECTOR_DIM)
    return torch.randn(count, VECTOR_DIM) * spread


def test_adapted_blocks_have_length_root_dim() -> None:
    adaptor, vectors = Adaptor(VECTOR_DIM, 12), _vectors(50)
    adaptor.start_at(vectors)
    adapted = adaptor(vectors)
    for block in adapted.chunk(BLOCKS, -1):
        np.testing.assert_allclose(block.norm(dim=-1).detach(), np.sqrt(6), rtol=1e-3)
    adaptor.start_at(vectors[:2])
    assert torch.isfinite(adaptor(vectors)).all()


def test_meaning_and_words_have_separate_blocks() -> None:
    adaptor, vectors = Adaptor(VECTOR_DIM, 8), _vectors(6)
    other = vectors.clone()
    other[:, HEADS["words"]] += 1.0
    with torch.no_grad():
        before, after = adaptor(vectors), adaptor(other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_adaptor_starts_at_principal_components() -> None:
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


def test_each_side_starts_at_its_own_vectors(world: World) -> None:
    features, adaptors = world.features, Adaptors(world.schema, VECTOR_DIM)
    adaptors.start_at(features)
    for side, held in (("user", features.user), ("item", features.item)):
        alone = Adaptor(VECTOR_DIM, world.schema.semantic_width(side))  # type: ignore[arg-type]
        alone.start_at(held.vectors[held.present])
        with torch.no_grad():
            found = adaptors.adapt(features).adapted[side]  # type: ignore[index]
            expected = alone(held.vectors)
        np.testing.assert_allclose(found[held.present], expected[held.present], atol=1e-5)
        assert not found[~held.present].any()
