"""Crosses find what pairs of fields tell, shrink what a log cannot support, and weigh it in one graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from msd.contract.correction import LearnedCorrection
from msd.contract.schema import Bag, Categorical, FeatureSchema, Sequence, State
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.metrics import sigmoid
from msd.nightly.refresh import correction_of
from msd.ranker.adaptor import Adaptors
from msd.ranker.batch import event_tensors
from msd.ranker.crosses import MOST_CELLS, Cells, Crosses, possible_crosses
from msd.ranker.features import Features, build_features
from msd.ranker.model import Ranker, RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.student.record import VECTOR_DIM
from msd.student.vectors import LevelVectors, StudentVectors, no_vectors
from msd.training.refresh import Line, Refreshed, RefreshError, refresh_ranker
from msd.training.train import new_model, predict
from msd.training.train_crosses import train_crosses

_CONFIG = """format = 1
name = "segments"
[events]
file = "events.parquet"
[items]
file = "items.parquet"
[users]
file = "users.parquet"
[split]
column = "part"
"""
_ROWS, _TOPICS = 12_000, 4


def _features(
    folder: Path, seed: int = 0, drifts: float = 1.0, bags: bool = False, lure: float = 0.0, texts: bool = False
) -> Features:
    """Return the features of a log in which each of four segments likes its own topic; noise tells nothing. After
    `drifts`, a share of the log, it likes another. With `bags`, users have two segments and ads two topics. `lure`:
    spread of what draws all to an ad, always. `texts`: of 600 ads, whose vectors alone tell their topics;
    every sixth has none."""
    rng = np.random.default_rng(seed)
    many = 600 if texts else 60
    segments, topics = (rng.integers(_TOPICS, size=(count, 2)) for count in (300, many))
    user, item, noise = (rng.integers(size, size=_ROWS) for size in (300, many, 20))
    taste = rng.normal(0, 1.0, (2, _TOPICS, _TOPICS))
    late = (np.arange(_ROWS) > _ROWS * drifts).astype(int)
    width = 2 if bags else 1
    pairs = [(left, right) for left in range(width) for right in range(width)]
    lures = np.random.default_rng(1).normal(0.0, lure, many)[item]
    odds = sum((taste[late, segments[user, left], topics[item, right]] for left, right in pairs), np.zeros(_ROWS))
    clicked = rng.random(_ROWS) < 1 / (1 + np.exp(1.5 - lures - odds / np.sqrt(len(pairs))))
    names: dict[str, list[object]] = {
        name: [[f"v{one}" for one in row[:width]] if bags else f"v{row[0]}" for row in values]
        for name, values in (("segment", segments), ("topic", topics))
    }
    folder.mkdir()
    pl.DataFrame({"user_id": [f"u{one}" for one in range(300)], "segment": names["segment"]}).write_parquet(
        folder / "users.parquet"
    )
    ads = [f"i{one}" for one in range(many)]
    pl.DataFrame({"item_id": ads, **({} if texts else {"topic": names["topic"]})}).write_parquet(
        folder / "items.parquet"
    )
    pl.DataFrame(
        {
            "user_id": [f"u{one}" for one in user],
            "item_id": [f"i{one}" for one in item],
            "at": 1_700_000_000 + 60 * np.arange(_ROWS),
            "label": clicked.astype(np.int8),
            "noise": [f"n{one}" for one in noise],
            "part": np.repeat(["train", "valid", "test"], [_ROWS * 8 // 10, _ROWS // 10, _ROWS // 10]),
        }
    ).write_parquet(folder / "events.parquet")
    kind = "bag" if bags else "categorical"
    fields = [("segment", "user", kind), ("topic", "item", kind), ("noise", "context", "categorical")]
    entries = [f'[[features]]\nname = "{name}"\nside = "{side}"\nkind = "{kind}"\n' for name, side, kind in fields]
    (folder / "dataset.toml").write_text(_CONFIG + "".join(entries[: 1 if texts else None]))
    data = load_dataset(folder)
    if not texts:
        return build_features(data, fit_schema(data, semantics=False), no_vectors())
    vectors = rng.normal(0.0, 0.1, (many, VECTOR_DIM))
    vectors[np.arange(many), topics[:, 0]] += 3.0
    told = [one for one in range(many) if one % 6]
    items = LevelVectors([ads[one] for one in told], vectors[told].astype(np.float32))
    schema = fit_schema(data, user_semantics=False)
    features = build_features(data, schema, StudentVectors("5" * 64, items, no_vectors().users))
    adaptors = Adaptors(schema, VECTOR_DIM)
    adaptors.start_at(features)
    return adaptors.adapt(features)


def _auc(features: Features, model: Crosses) -> float:
    rows = features.of_part(Part.TEST)
    logits = model(event_tensors(features, rows)).numpy()
    return float(roc_auc_score(features.outcomes(rows)[0], logits))


def _without_pairs(features: Features, model: Crosses) -> Crosses:
    """Return the model without what its pairs of segment and topic add."""
    alone = Crosses(features.schema, model.chosen)
    alone.load_state_dict(model.state_dict())
    for cells, offset in alone.placed:
        if cells.cross == ("segment", "topic"):
            alone.weights[offset : offset + cells.count] = 0.0
    return alone


@pytest.mark.parametrize("bags", [False, True])
def test_finds_the_pair_that_matters(tmp_path: Path, bags: bool) -> None:
    features = _features(tmp_path / "log", bags=bags)
    model = train_crosses(features)
    assert model.chosen[0] == ("segment", "topic")
    assert not [cross for cross in model.chosen if "noise" in cross and len(cross) == 2]
    assert _auc(features, model) > _auc(features, _without_pairs(features, model)) + 0.1


def test_texts_tell_themes_which_are_crossed(tmp_path: Path) -> None:
    features = _features(tmp_path / "log", texts=True)
    model, bare = (
        train_crosses(features),
        replace(features, adapted={"item": torch.zeros_like(features.adapted["item"])}),
    )
    assert model.chosen[0] == ("segment", "(8 themes)")
    assert _auc(features, model) > _auc(bare, train_crosses(bare)) + 0.03
    tensors = event_tensors(features, features.of_part(Part.TEST))
    found = {cells.cross: cells_ for cells, _, cells_ in model.cells(tensors)}["segment", "(8 themes)"]
    is_told = tensors["item_semantic"].any(1)
    assert torch.equal(found[:, 0] % 9 > 0, is_told)


def test_refresh_adds_to_themes(tmp_path: Path) -> None:
    features = _features(tmp_path / "log", texts=True)
    config = RankerConfig(hidden=(), counts=(), content=0, affinity=0, taste=False)
    model = new_model(replace(features, adapted={}), config, seed=0).eval()
    assert isinstance(model.ranker, Ranker)
    assert model.ranker.crosses
    assert model.ranker.crosses.themes
    model.ranker.blend.copy_(torch.tensor([[0.0, 1.0]] * 2))
    rows = features.of_part(Part.TEST)
    found = refresh_ranker(model, replace(features, adapted={}), rows, rows.astype(np.float64), rows > rows.mean())
    unseen = features.outcomes(rows[rows > rows.mean()])[0]
    assert roc_auc_score(unseen, found.unseen) > 0.6


def test_themes_whose_meaning_passes_are_not_crossed(tmp_path: Path) -> None:
    features = _features(tmp_path / "log", texts=True, drifts=0.8)
    assert not train_crosses(features).themes


def test_after_a_drift_later_rows_add_to_what_all_rows_tell(tmp_path: Path) -> None:
    """Tastes move, lures do not: fitted to all rows alike, the tastes would be the old ones; fitted to the later rows
    alone, the lures would rest on few rows."""
    features = _features(tmp_path / "log", drifts=0.7, lure=1.0)
    early = np.arange(_ROWS) < _ROWS * 0.7
    later = replace(features, parts=np.where(early, Part.TEST, features.parts).astype(np.int8))
    test = features.of_part(Part.TEST)
    tensors, labels = event_tensors(features, test), features.outcomes(test)[0]
    found, alone = (float(roc_auc_score(labels, model(tensors))) for model in map(train_crosses, (features, later)))
    assert found > alone + 0.002


def test_one_request_scores_as_its_rows_do(tmp_path: Path) -> None:
    features = _features(tmp_path / "log", bags=True)
    model = train_crosses(features)
    tensors = event_tensors(features, features.of_part(Part.TEST)[:50])
    for row in range(3):
        asked = {
            name: value[row : row + 1] if not name.startswith("item") else value for name, value in tensors.items()
        }
        repeated = {name: value.expand(50, *value.shape[1:]) for name, value in asked.items()}
        torch.testing.assert_close(model(asked), model(repeated))


def test_unknown_ids_add_nothing(tmp_path: Path) -> None:
    features = _features(tmp_path / "log")
    model = train_crosses(features)
    nobody = event_tensors(features.anonymous(), features.of_part(Part.TEST))
    user = features.schema.columns["user_id"].start
    for index in (0, 1):
        nobody["user_categorical"][:, user] = index
        for cells, _, found in model.cells(nobody):
            assert bool((found == -1).all()) == ("user_id" in cells.cross)
    again = {**nobody, "user_categorical": nobody["user_categorical"].clone()}
    again["user_categorical"][:, user] = 0
    torch.testing.assert_close(model(nobody), model(again))


def _wide(buckets: int) -> FeatureSchema:
    state = State(name="item_counts", side="item", prior=0.1, strength=20.0, half_life_s=1e6, age_cap_s=1e6)
    return FeatureSchema(
        fields=(
            Categorical(name="user_id", side="user", buckets=buckets, is_id=True),
            Categorical(name="item_id", side="item", buckets=buckets, is_id=True),
            Categorical(name="site", side="context", buckets=buckets),
            Bag(name="words", side="item", buckets=buckets, max_values=8),
            Sequence(name="history", length=5),
            state,
        )
    )


def test_crosses_of_many_values_share_weights() -> None:
    """Two fields of 16 million values have 3 · 10¹⁴ pairs; a cross has a million weights."""
    schema = _wide(2**24)
    model = Crosses(schema, possible_crosses(schema))
    assert all(cells.count <= MOST_CELLS for cells, _ in model.placed)
    rng = np.random.default_rng(0)

    def drawn(width: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(1, 2**24, (64, width)).astype(np.int32))

    tensors = {"user_categorical": drawn(1), "item_categorical": drawn(9), "context_categorical": drawn(1)}
    tensors |= {"history_categorical": drawn(45).reshape(64, 5, 9), "history_outcomes": torch.ones(64, 5, 4)}
    for cells, offset, found in model.cells(tensors):
        assert found.shape == (64, cells.width)
        assert 0 <= int(found.min())
        assert int(found.max()) < cells.count
        model.weights[offset : offset + cells.count] = 1.0
    # Each cross adds the mean of its cells, which are all 1.
    torch.testing.assert_close(model(tensors), torch.full((64,), float(len(model.placed))))


def test_counts_how_often_the_user_saw_the_item() -> None:
    """Ads tire: what an item adds falls with each impression that the user's history has of it."""
    schema = _wide(8)
    model = Crosses(schema, [("(repeats)",)])
    ((cells, _),) = model.placed
    model.weights[:] = torch.arange(cells.count)
    item = torch.tensor([[3, 0], [4, 0], [5, 0], [0, 0]]).repeat(1, 5)[:, :9].int()
    history = torch.zeros(1, 5, 9, dtype=torch.int32)
    history[0, :3, 0] = torch.tensor([3, 4, 0])
    outcomes = torch.zeros(1, 5, 4)
    outcomes[0, :3, 0], outcomes[0, 1, 1] = torch.tensor([1.0, 4.0, 9.0]), 2.0
    asked = {
        "user_categorical": torch.ones(1, 1, dtype=torch.int32),
        "context_categorical": torch.ones(1, 1, dtype=torch.int32),
        "item_categorical": item,
        "history_categorical": history,
        "history_outcomes": outcomes,
    }
    # Once without a click; four times and clicked; never; an unknown item, which nothing of the history is.
    assert model(asked).tolist() == [1.0, 12.0, 0.0, 0.0]
    row = {
        name: value if name == "item_categorical" else value.expand(4, *value.shape[1:])
        for name, value in asked.items()
    }
    assert model(row).tolist() == [1.0, 12.0, 0.0, 0.0]


def test_no_pair_of_both_ids() -> None:
    found = possible_crosses(_wide(8))
    assert ("user_id", "item_id") not in found
    assert {("user_id", "words"), ("site", "item_id"), ("user_id", "site")} <= set(found)
    assert Cells.of(_wide(8), ("user_id", "words")).width == 8


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_log_of_one_label_is_finite(tmp_path: Path, label: float) -> None:
    features = _features(tmp_path / "log")
    features.labels[:] = label
    model = train_crosses(features)
    logits: NDArray[np.float32] = model(event_tensors(features, features.of_part(Part.TEST))).numpy()
    assert np.isfinite(logits).all()


def test_refresh_follows_a_drift_within_the_hour_and_adds_little_without_one(tmp_path: Path) -> None:
    features, at = (
        _features(tmp_path / "log", drifts=0.5),
        np.arange(0, 2 * _ROWS, 2).astype(np.float64),
    )  # 1,800 rows an hour
    parts = np.where(np.arange(_ROWS) < 4_500, Part.TRAIN, Part.VALID).astype(np.int8)
    config = RankerConfig(hidden=(), counts=(), content=0, affinity=0, taste=False)
    model = new_model(replace(features, parts=parts), config, seed=0).eval()
    assert isinstance(model.ranker, Ranker)
    model.ranker.blend.copy_(torch.tensor([[0.0, 1.0]] * 2))
    before, noon = model.state_dict()["ranker.crosses.weights"].clone(), _ROWS // 2

    def refreshed(until: int) -> Refreshed:
        rows = np.arange(4_500, until)
        return refresh_ranker(model, features, rows, at[rows], rows >= until - 1_800)

    quiet, moved, again = refreshed(noon), refreshed(noon + 1_800), refreshed(noon + 1_800)
    later, morning = np.arange(noon + 1_800, noon + 3_600), np.arange(noon - 1_500, noon)
    labels = features.labels.numpy()[later]
    auc = [roc_auc_score(labels, predict(one, features, later)) for one in (model, moved.model)]
    assert auc[1] > auc[0] + 0.05, auc
    change = np.abs(predict(quiet.model, features, morning) - predict(model, features, morning))
    assert change.mean() < 0.03, change.mean()
    assert all(torch.equal(one, other) for one, other in zip(*_weights(moved, again), strict=True)), "to the bit"
    assert torch.equal(model.state_dict()["ranker.crosses.weights"], before), "the given model stays"

    rows = np.arange(4_500, noon)
    raised = refresh_ranker(model, features, rows, at[rows], rows >= noon - 1_800, Line(np.full(len(rows), 0.7)))
    scores = predict(raised.model, features, rows).astype(np.float64)
    served = sigmoid(np.log(scores / (1 - scores)) + 0.7)
    assert served.mean() == pytest.approx(features.labels.numpy()[rows].mean(), abs=0.02), "the correction stays"
    assert raised.unseen.mean() == pytest.approx(served[rows >= noon - 1_800].mean(), abs=0.02)

    model.ranker.blend.copy_(torch.tensor([[1.0, 0.0]] * 2))
    assert roc_auc_score(labels, predict(refreshed(noon + 1_800).model, features, later)) > 0.55, "without a share"
    alone = new_model(features, RankerConfig(network="lr"), seed=0)
    with pytest.raises(RefreshError, match="has no crosses"):
        refresh_ranker(alone, features, later, at[later], later > 0)


def test_a_refresh_knows_what_services_make_of_each_segment(tmp_path: Path) -> None:
    features, rows = _features(tmp_path / "log"), np.arange(200)
    shifts = {"anonymous": 0.4, "noise=n3": -0.3, "noise=n7": 0.9, "known": 0.2, "slot 2": 0.1}
    learned = LearnedCorrection(centre=-1, shift=0.3, slope=1.1, segments=shifts, at=0, impressions=0, clicks=0)
    anonymous, codes = rows % 3 == 0, features.context_categorical[:200, 0].numpy()
    noise = next(field for field in features.schema.indexed("context") if isinstance(field, Categorical))
    scores = np.linspace(0.01, 0.9, 200)
    found = sigmoid(correction_of(learned, features, rows, anonymous)(np.log(scores / (1 - scores))))
    for row, score in enumerate(scores):
        names = ["anonymous" if anonymous[row] else "known"]
        names += [f"noise={value}" for value in ("n3", "n7") if noise.index[value] == codes[row]]
        served = learned.within(names)(np.array([score], np.float32))[0]
        assert found[row] == pytest.approx(served, rel=1e-5), (row, names)


def _weights(*refreshed: Refreshed) -> list[list[torch.Tensor]]:
    return [list(one.model.state_dict().values()) for one in refreshed]
