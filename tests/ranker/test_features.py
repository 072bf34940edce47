"""Features are what the contract's `encode` and `dense` make of rows; a user's vector counts only after the window."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from msd.contract.assemble import Counts, dense
from msd.contract.encode import UNKNOWN_INDEX
from msd.contract.rows import RowCodec, RowSide, has_semantic
from msd.dataset.split import Part
from msd.ranker.features import SideFeatures, build_features
from msd.student.record import VECTOR_DIM
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
    counts = timeline.user_counts if side == "user" else timeline.item_counts
    live = timeline.live_user_counts if side == "user" else timeline.live_item_counts
    aged = timeline.aged_user_counts if side == "user" else timeline.aged_item_counts
    at = world.dataset.events["at"].to_numpy()
    for event in range(0, len(at), 97):
        entity = int(features.rows[event])
        numeric = features.entities.numeric[[entity]]
        known = features.present[[entity]].numpy() & np.array(
            [side == "item" or bool(world.features.knows_user[event])]
        )
        views = (features.dense, features.live_dense, *features.aged_dense)
        for found, of in zip(views, (counts, live, *aged), strict=True):
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


def test_value_without_training_rows_is_unknown(world: World) -> None:
    late = world.dataset.events["device"].to_list()
    late[-1] = "telephone box"
    events = world.dataset.events.with_columns(device=pl.Series(late))
    features = build_features(replace(world.dataset, events=events), world.schema, world.vectors)
    assert features.context_categorical[-1, world.schema.columns["device"].start] == UNKNOWN_INDEX


def test_parts_select_events_in_time_order(world: World) -> None:
    features = world.features
    picked = [features.of_part(part) for part in Part]
    assert sorted(np.concatenate(picked).tolist()) == list(range(len(features.labels)))
    assert all((np.diff(rows) > 0).all() for rows in picked)
    both = features.of_part(Part.WINDOW, Part.TRAIN)
    assert set(both) == {*picked[Part.WINDOW], *picked[Part.TRAIN]}
