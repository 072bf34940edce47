"""Features are what the contract's `encode` and `dense` make of rows; a user's vector counts only after the window."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from msd.contract.assemble import Counts, dense
from msd.contract.encode import UNKNOWN_INDEX
from msd.contract.rows import RowCodec, RowSide, has_semantic
from msd.dataset.config import SplitConfig
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import Features, SideFeatures, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.record import VECTOR_DIM
from tests.ranker.made import World, word_vectors

SIDES: tuple[RowSide, ...] = ("user", "item")


def _side(world: World, side: RowSide) -> SideFeatures:
    return world.features.user if side == "user" else world.features.item


def _has_vector_column(world: World, side: RowSide) -> torch.Tensor:
    return _side(world, side).dense[:, -1]


def test_a_users_vector_counts_only_after_the_window(world: World) -> None:
    features = world.features
    in_window = torch.from_numpy(features.parts == Part.WINDOW)
    has_text = features.user.present[features.user.rows]
    assert 0 < has_text.sum() < len(has_text)
    assert torch.equal(features.knows_user, ~in_window)
    assert not _has_vector_column(world, "user")[in_window].any()
    assert torch.equal(_has_vector_column(world, "user").bool(), has_text & ~in_window)


def test_an_items_vector_always_counts(world: World) -> None:
    item = world.features.item
    assert torch.equal(_has_vector_column(world, "item").bool(), item.present[item.rows])


def test_vectors_stand_beside_their_ids_and_the_unknown_row_has_none(world: World) -> None:
    for side, level in (("user", world.vectors.users), ("item", world.vectors.items)):
        features = _side(world, side)  # type: ignore[arg-type]
        expected = [one in level.rows for one in features.entities.ids]
        assert features.present.tolist() == [*expected, False]
        for row, one in enumerate(features.entities.ids):
            vector = level.vectors[level.rows[one]] if one in level.rows else np.zeros(VECTOR_DIM)
            assert np.array_equal(features.vectors[row].numpy(), vector)
        assert not features.vectors[-1].any()


@pytest.mark.parametrize("side", SIDES)
def test_dense_equals_the_contracts_dense_of_one_row(world: World, side: RowSide) -> None:
    features, timeline = _side(world, side), world.features.timeline
    counts = timeline.user_counts if side == "user" else timeline.item_counts
    aged = timeline.aged_user_counts if side == "user" else timeline.aged_item_counts
    at = world.dataset.events["at"].to_numpy()
    for event in range(0, len(at), 97):
        entity = int(features.rows[event])
        numeric = features.entities.numeric[[entity]]
        known = features.present[[entity]].numpy() & np.array(
            [side == "item" or bool(world.features.knows_user[event])]
        )
        for found, of in ((features.dense, counts), *zip(features.aged_dense, aged, strict=True)):
            one = Counts(*(column[[event]] for column in of))
            expected = dense(world.schema, side, numeric, one, known, float(at[event]))
            assert np.array_equal(found[event].numpy(), expected[0])


def test_the_unknown_row_looks_as_it_will_to_the_service(world: World) -> None:
    for side in SIDES:
        record = RowCodec(world.schema, side, "0" * 32).missing
        expected = dense(world.schema, side, record["numeric"], Counts.of(record), has_semantic(record), 1.7e9)
        assert np.array_equal(_side(world, side).unknown_dense.numpy(), expected[0])


def test_the_position_is_true_offline(world: World) -> None:
    schema = world.schema
    column = schema.columns["position"].start
    field = next(field for field in schema.indexed("context") if field.name == "position")
    found = world.features.context_categorical[:, column].tolist()
    assert found == [field.index[one] for one in world.dataset.events["position"]]
    assert len(set(found)) == 5


def test_a_value_that_no_training_row_shows_is_unknown(world: World) -> None:
    late = world.dataset.events["device"].to_list()
    late[-1] = "telephone box"
    events = world.dataset.events.with_columns(device=pl.Series(late))
    features = build_features(replace(world.dataset, events=events), world.schema, world.vectors)
    assert features.context_categorical[-1, world.schema.columns["device"].start] == UNKNOWN_INDEX


def test_parts_pick_their_events_in_time_order(world: World) -> None:
    features = world.features
    picked = [features.of_part(part) for part in Part]
    assert sorted(np.concatenate(picked).tolist()) == list(range(len(features.labels)))
    assert all((np.diff(rows) > 0).all() for rows in picked)
    both = features.of_part(Part.WINDOW, Part.TRAIN)
    assert set(both) == {*picked[Part.WINDOW], *picked[Part.TRAIN]}


@pytest.fixture(scope="module", params=[True, False], ids=["vectors", "no vectors"])
def features(tiny: Dataset, request: pytest.FixtureRequest) -> Features:
    return build_features(tiny, fit_schema(tiny, semantics=request.param), word_vectors(tiny))


def test_training_rows_stay_and_test_rows_see_more(tiny: Dataset, features: Features) -> None:
    live = features.live()
    training, test = features.of_part(Part.WINDOW, Part.TRAIN), features.of_part(Part.TEST)
    for one, other in ((live.user, features.user), (live.item, features.item)):
        assert torch.equal(one.dense[training], other.dense[training])
        changed = (one.dense[test] != other.dense[test]).any(0)
        # What is no count does not move: numbers before, and whether there is a vector after.
        assert 0 < changed.sum() <= 4
    assert torch.equal(live.history, features.history)
    np.testing.assert_array_equal(live.parts, features.parts)


def test_counts_are_those_of_a_dataset_that_trains_on_nearly_everything(tiny: Dataset, features: Features) -> None:
    """Cuts so late that but one event a user is valid and one is test: what comes before counts."""
    late = tiny.config.model_copy(update={"split": SplitConfig(profile_window=0.5, train=0.96, valid=0.98)})
    dataset = replace(tiny, config=late)
    expected = build_features(dataset, features.schema, word_vectors(tiny))
    live = features.live()
    same = np.intersect1d(expected.of_part(Part.TRAIN), features.of_part(Part.TEST))
    assert len(same) > 50
    assert torch.equal(live.user.dense[same], expected.user.dense[same])
    assert torch.equal(live.item.dense[same], expected.item.dense[same])
