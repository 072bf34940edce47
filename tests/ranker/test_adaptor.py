"""Adaptors start as principal components by block, and what is missing stays zeros."""

import numpy as np
import pytest
import torch

from msd.ranker.adaptor import Adaptor, Adaptors
from msd.ranker.model import BLOCKS
from msd.student.record import HEADS, VECTOR_DIM
from tests.ranker.made import World


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
            found = adaptors.adapt(side, held.vectors, held.present)  # type: ignore[arg-type]
            expected = alone(held.vectors)
        np.testing.assert_allclose(found[held.present], expected[held.present], atol=1e-5)
        assert not found[~held.present].any()
