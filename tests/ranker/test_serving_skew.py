"""A row scored in a training batch and the same row scored as a request, from rows and the reference, agree."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from model_export.parity import plain_request
from msd.contract.rows import RowCodec, RowContents, Rows, RowSide, pack_history
from msd.contract.schema import STATE_FEATURES
from msd.dataset.split import Part
from msd.ranker.batch import Corruption, Hiding, TrainedRanker, history_tensors
from msd.ranker.features import Features, build_features
from msd.ranker.model import Opinions, Ranker
from msd.training.train import predict_logits
from native.columns import Counts
from tests.assembled import assembled
from tests.ranker.made import World, batch_logits

BUNDLE = "ab" * 16


def _served_position(world: World) -> World:
    """The same world, every impression at the position that the service takes for granted."""
    events = world.dataset.events.with_columns(position=pl.lit("1"))
    dataset = replace(world.dataset, events=events)
    return replace(world, dataset=dataset, features=build_features(dataset, world.schema, world.vectors))


def _rows(
    model: TrainedRanker, features: Features, side: RowSide, entities: NDArray[np.int64], counts: Counts, known: bool
) -> Rows:
    """Rows as an export packs them, but of given counts [n], or of none for the entity that nobody knows."""
    one = features.user if side == "user" else features.item
    present = one.present[entities].numpy() & known
    semantic = None
    if features.schema.semantic(side):
        semantic = model.adaptors.adapt(features).adapted[side][entities].numpy()
    impressions, clicks, as_of = (column.astype(np.float64) for column in counts)
    categorical, numeric = one.entities.categorical[entities], one.entities.numeric[entities]
    contents = RowContents(categorical, numeric, semantic, present, impressions, clicks, as_of)
    codec = RowCodec(features.schema, side, BUNDLE)
    tail = pack_history(()) if side == "user" else b""
    rows = codec.unpack([record.tobytes() + tail for record in codec.pack(contents, 0.0)])
    assert rows.found.all()
    return rows


def _counts_of(world: World, log_odds: NDArray[np.float64]) -> Counts:
    """Counts [n] of items whose smoothed click rates are those."""
    state, many = world.schema.state("item"), 1e5
    assert state is not None
    rate = 1 / (1 + np.exp(-(log_odds + np.log(state.prior / (1 - state.prior)))))
    clicks = rate * (many + state.strength) - state.strength * state.prior
    return Counts(np.full(len(rate), many), clicks, np.zeros(len(rate)))


def _as_request(world: World, event: int) -> float:
    """The logit of an event by way of a request, packed rows and the reference."""
    features, row = world.features, world.dataset.events.row(event, named=True)
    held = features.history[event]
    history = held[held >= 0].numpy()
    body = json.dumps(plain_request(world.dataset, features, event)).encode()
    timeline = features.timeline
    user_counts, item_counts = (
        Counts(*(column[[event]] for column in counts)) for counts in (timeline.user.fresh, timeline.item.fresh)
    )
    user_rows, item_rows = features.user.rows[[event]].numpy(), features.item.rows[[event]].numpy()
    user = _rows(world.model, features, "user", user_rows, user_counts, bool(features.knows_user[event]))
    clicked = _counts_of(world, features.history_outcomes[event, : len(history), 3].numpy().astype(np.float64))
    counts = Counts(*(np.concatenate(columns) for columns in zip(item_counts, clicked, strict=True)))
    items = _rows(world.model, features, "item", np.concatenate([item_rows, history]), counts, True)
    tensors = assembled(world.schema, body, float(row["at"]), user, items)
    with torch.no_grad():
        logits = world.model.ranker(
            {name: torch.from_numpy(np.array(tensor, order="C")) for name, tensor in tensors.items()}
        )
    return float(logits[0])


@pytest.mark.parametrize(("name", "tolerance"), [("world", 2e-3), ("item_world", 2e-3), ("plain_world", 1e-5)])
def test_batch_scores_rows_like_requests(name: str, tolerance: float, request: pytest.FixtureRequest) -> None:
    # What rounding to fp16 costs a vector is all that may be between them.
    world = _served_position(request.getfixturevalue(name))
    events = np.concatenate([world.features.of_part(part)[::23] for part in Part])
    batch = predict_logits(world.model, world.features, events)
    single = [_as_request(world, int(event)) for event in events]
    assert np.std(batch) > 0.1
    np.testing.assert_allclose(batch, single, atol=tolerance)


def test_reads_no_vector_without_semantics(plain_world: World) -> None:
    model = plain_world.model
    assert not len(model.adaptors)
    assert not [name for name in model.state_dict() if "adaptor" in name or "semantic" in name]
    events = plain_world.features.of_part(Part.TEST)[:20]
    features = plain_world.features
    spoiled = replace(
        features,
        item=replace(features.item, vectors=torch.full_like(features.item.vectors, torch.nan)),
        user=replace(features.user, vectors=torch.full_like(features.user.vectors, torch.nan)),
    )
    with torch.no_grad():
        assert torch.equal(batch_logits(model, features, events), batch_logits(model, spoiled, events))


NOTHING_HIDDEN = Corruption(aged_user=0.0, aged_item=0.0, unknown=0.0, without_vector=0.0, new_item=0.0)


@pytest.fixture
def seen(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the network is asked with, for the training rows of one batch."""
    noted: dict[str, torch.Tensor] = {}
    assert isinstance(world.model.ranker, Ranker)
    opinions = world.model.ranker.opinions

    def note(tensors: dict[str, torch.Tensor], taste: torch.Tensor) -> Opinions:
        noted.update(tensors, taste=taste)
        return opinions(tensors, taste)

    monkeypatch.setattr(world.model.ranker, "opinions", note)
    return noted


def _ask(world: World, corruption: Corruption) -> None:
    batch_logits(world.model, world.features, np.arange(200), Hiding(corruption, np.random.default_rng(0)))


def test_new_item_has_features_and_vector_without_id_and_counts(world: World, seen: dict[str, torch.Tensor]) -> None:
    schema, item = world.schema, world.features.item
    before = item.dense.clone(), item.categorical.clone()
    _ask(world, NOTHING_HIDDEN)
    whole = dict(seen)
    _ask(world, replace(NOTHING_HIDDEN, new_item=1.0))
    assert torch.equal(item.dense, before[0])
    assert torch.equal(item.categorical, before[1])
    place = schema.columns["item_id"]
    assert not seen["item_categorical"][:, place].any()
    others = [column for column in range(schema.categorical_width("item")) if column != place.start]
    assert torch.equal(seen["item_categorical"][:, others], whole["item_categorical"][:, others])
    assert torch.equal(seen["item_semantic"], whole["item_semantic"])
    numbers = schema.numeric_width("item")
    counts = slice(numbers, numbers + len(STATE_FEATURES))
    assert torch.equal(seen["item_dense"][:, :numbers], whole["item_dense"][:, :numbers])
    assert torch.equal(seen["item_dense"][:, counts], item.unknown_dense[counts].expand(200, -1))
    assert torch.equal(seen["user_dense"], whole["user_dense"])
    # The taste does not see which item it is.
    assert torch.equal(seen["taste"], whole["taste"])


def test_hidden_user_is_as_an_anonymous_one(world: World, seen: dict[str, torch.Tensor]) -> None:
    features, user = world.features, world.features.user
    _ask(world, NOTHING_HIDDEN)
    assert seen["taste"].any()
    _ask(world, replace(NOTHING_HIDDEN, unknown=1.0))
    assert torch.equal(seen["user_dense"], user.unknown_dense.expand(200, -1))
    assert torch.equal(seen["user_categorical"], user.categorical[-1].expand(200, -1))
    assert not seen["taste"].any()
    rows, features = torch.arange(200), world.model.adaptors.adapt(features)
    assert history_tensors(features, rows)["history_mask"].any()
    history = history_tensors(features, rows, torch.zeros(200, dtype=torch.bool))
    assert not any(history[name].any() for name in ("history_mask", "history_outcomes"))

    anonymous = features.anonymous()
    batch_logits(world.model, anonymous, np.arange(200))
    assert torch.equal(seen["user_dense"], user.unknown_dense.expand(200, -1))
    assert torch.equal(seen["user_categorical"], user.categorical[-1].expand(200, -1))
    assert not seen["taste"].any()
    assert not seen["user_semantic"].any()
    history = history_tensors(anonymous, rows)
    assert not any(history[name].any() for name in ("history_mask", "history_outcomes"))


def test_sides_age_independently(world: World, seen: dict[str, torch.Tensor]) -> None:
    _ask(world, replace(NOTHING_HIDDEN, aged_user=1.0))
    assert torch.equal(seen["item_dense"], world.features.item.dense[:200])
    draws = world.features.user.aged_dense[:, :200]
    drawn = (seen["user_dense"] == draws).all(-1)
    assert drawn.any(0).all()
    # Several draws are in use, not one for all rows.
    assert len({tuple(column) for column in drawn.T.tolist()}) > 1
