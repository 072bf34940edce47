"""Features in a folder are those in memory, whatever is computed at once; training reads them in chunks."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from msd.ranker import arrays, timeline
from msd.ranker.feature_folder import read_features, write_features
from msd.ranker.features import Features, SideFeatures
from msd.training import train
from msd.training.train import chunk_count, random_chunk, train_ranker
from tests.ranker.made import CHECKPOINT, QUICK, SMALL, Cut, World, assert_same_weights, cut_at, quiet


def assert_same(found: Features | SideFeatures, expected: Features | SideFeatures) -> None:
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):
            assert torch.equal(one, other), field.name


@pytest.mark.parametrize("name", ["world", "plain_world"])
def test_folder_has_the_features_computed_by_chunks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(name)
    monkeypatch.setattr(arrays, "CHUNK", 100)
    monkeypatch.setattr(timeline, "_ROWS_AT_ONCE", 7)
    write_features(tmp_path / "features", world.dataset, world.schema, world.vectors)
    found = read_features(tmp_path / "features")
    assert_same(found, world.features)
    assert_same(found.user, world.features.user)
    assert_same(found.item, world.features.item)
    assert np.array_equal(found.parts, world.features.parts)
    assert found.item.entities.unknown == world.features.item.entities.unknown
    assert found.schema.schema_hash == world.schema.schema_hash
    for path in (tmp_path / "features").glob("*.npy"):  # a hole would end the process once the disk is full
        assert path.stat().st_blocks * 512 >= path.stat().st_size, path


def test_chunks_of_an_epoch_have_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHUNK", 100)
    monkeypatch.setattr(train, "BLOCK", 8)
    first, again, other = (
        [random_chunk(990, chunk, [0, epoch]).tolist() for chunk in range(chunk_count(990))] for epoch in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(sum(first, [])) == list(range(990))
    assert {len(chunk) // 10 for chunk in first} == {9, 10}


def test_training_from_a_folder_resumes_within_an_epoch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHUNK", 400)
    monkeypatch.setattr(train, "BLOCK", 16)
    write_features(tmp_path / "features", world.dataset, world.schema, world.vectors)
    features, steps = read_features(tmp_path / "features"), list[int]()
    whole, curve = train_ranker(world.features, SMALL, QUICK, tmp_path / CHECKPOINT, "whole", quiet)
    options = features, SMALL, QUICK, tmp_path / "cut" / CHECKPOINT, "cut"
    assert chunk_count(len(features.parts)) > 2
    with pytest.raises(Cut):
        train_ranker(*options, cut_at(1, 12))
    again, again_curve = train_ranker(*options, lambda epoch, step, loss: steps.append(step))
    assert steps[0] > 1
    assert again_curve == curve
    assert_same_weights(again, whole)
