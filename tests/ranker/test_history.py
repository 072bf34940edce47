"""What a history says of a target, worked out by hand; padding and missing values say nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd.ranker.history import Fusion, Overlap, cosine, select, summarise

MASK = torch.tensor([[1.0, 1.0, 1.0, 0.0]])


def test_cosine_of_layer_norm_vectors() -> None:
    torch.manual_seed(1)
    history, target = (torch.nn.functional.layer_norm(torch.randn(*shape, 8), (8,)) for shape in ((1, 4), (3,)))
    target[2] = 0.0  # a missing vector
    found = cosine(history, target)
    expected = torch.nn.functional.cosine_similarity(history, target.unsqueeze(1), dim=-1)
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-4)
    assert not found[2].any()


@pytest.mark.parametrize("size", [6, 1_000])
def test_overlap_is_the_cosine_of_value_sets(size: int) -> None:
    history = torch.tensor([[[2, 3, 0], [4, 0, 0], [0, 0, 0]]])
    target = torch.tensor([[3, 2, 0], [3, 4, 5], [0, 0, 0]])
    expected = [[1.0, 0.0, 0.0], [1 / np.sqrt(6), 1 / np.sqrt(3), 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(Overlap(size, 3, 1)(history, target), expected, atol=1e-6)


def test_single_values_overlap_if_equal_and_known() -> None:
    history, target = torch.tensor([[[7], [8], [0]]]), torch.tensor([[8], [0]])
    assert Overlap(9, 1, 1)(history, target).tolist() == [[0, 1, 0], [0, 0, 0]]
    history, target = torch.tensor([[[1], [2], [0]]]), torch.tensor([[1], [2]])
    assert Overlap(9, 1, 2)(history, target).tolist() == [[0, 0, 0], [0, 1, 0]]
    history, target = torch.tensor([[[1, 2, 0], [1, 0, 0]]]), torch.tensor([[1, 2, 0]])
    for size in (6, 1_000):
        np.testing.assert_allclose(Overlap(size, 3, 2)(history, target), [[0.5, 0.0]], atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_overlap_is_equal_in_both_ways_and_any_batch(seed: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    history, target = (
        torch.from_numpy(np.array([_set(rng) for _ in range(count)], np.int32)).reshape(shape)
        for count, shape in ((4, (1, 4, 3)), (5, (5, 3)))
    )
    few, many = Overlap(6, 3, first), Overlap(1_000, 3, first)
    expected = many(history, target)
    for found in (few(history, target), *(overlap(history.expand(5, -1, -1), target) for overlap in (few, many))):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def _set(rng: np.random.Generator) -> list[int]:
    values = rng.permutation(np.arange(1, 6))[: rng.integers(0, 4)]
    return [*values.tolist(), *[0] * (3 - len(values))]


def test_summary_is_mean_max_top_and_latest() -> None:
    alike = torch.tensor([[0.1, 0.9, -0.4, 0.3, 0.5, 0.7, 55.0]])
    mask = torch.tensor([[1.0, 1, 1, 1, 1, 1, 0]])
    expected = [[2.1 / 6, 0.9, (0.9 + 0.7 + 0.5) / 3, (0.9 - 0.4 + 0.3 + 0.5 + 0.7) / 5]]
    np.testing.assert_allclose(summarise(alike, mask), expected, atol=1e-6)


@given(
    alike=st.lists(st.floats(-1, 1, width=32), min_size=0, max_size=9),
    padding=st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=6),
)
def test_summary_ignores_padding(alike: list[float], padding: list[float]) -> None:
    # Padding stands at a likeness of 0 or more, which is no maximum of a history that is all unlike the target.
    mask = torch.tensor([[1.0] * len(alike) + [0.0] * len(padding)])
    padded = summarise(torch.tensor([alike + padding]), mask)
    zeros = summarise(torch.tensor([alike + [0.0] * len(padding)]), mask)
    assert torch.equal(padded, zeros)
    if not alike:
        assert not padded.any()
    else:
        assert padded[0, 1].item() == pytest.approx(max(alike))


def test_selector_weighs_the_nearest_by_their_lead() -> None:
    assert not select(torch.rand(3, 4), torch.zeros(1, 4), torch.rand(1, 4, 5), 2).any(), "no history"
    alike = torch.tensor([[0.2, 0.8, 0.6, 5.0]])
    history = torch.tensor([[[1.0], [10.0], [100.0], [1e6]]])
    np.testing.assert_allclose(select(alike, MASK, history, 2), [[(0.6 * 10 + 0.4 * 100) / (1.0 + 0.1)]], rtol=1e-5)
    everything = (1.2 * 1 + 1.8 * 10 + 1.6 * 100) / (4.6 + 0.1)
    for count in (None, 3, 9):
        np.testing.assert_allclose(select(alike, MASK, history, count), [[everything]], rtol=1e-5)


@given(places=st.permutations(range(6)), nudge=st.floats(-1e-6, 1e-6))
def test_tie_at_the_selectors_edge_changes_nothing(places: list[int], nudge: float) -> None:
    alike = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1, 0.0]])
    history, mask = torch.arange(12.0).reshape(1, 6, 2), torch.ones(1, 6)
    whole = select(alike, mask, history, 2)
    np.testing.assert_allclose(select(alike[:, places], mask, history[:, places], 2), whole, rtol=1e-5)
    alike[0, 2] += nudge
    np.testing.assert_allclose(select(alike, mask, history, 2), whole, atol=1e-4)


def test_fusion_gates_by_frequency() -> None:
    fusion = Fusion(dense=1)
    with torch.no_grad():
        fusion.gate.weight.fill_(10.0)
        fusion.gate.bias.fill_(0.0)
        fused = fusion(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([[5.0], [-5.0]]))
    np.testing.assert_allclose(fused, [[1.0] * 3, [0.0] * 3], atol=1e-6)
