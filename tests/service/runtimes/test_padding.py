"""Padding adds rows of zeros to the candidates, few enough, and changes nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.openvino import padded_size
from service.runtimes.cuda import pad_candidates, padded_sizes


@given(st.integers(1, 100_000))
def test_a_size_wastes_a_fifth_at_most(count: int) -> None:
    size = padded_size(count)

    assert count <= size
    assert (size - count) * 5 <= size
    assert padded_size(size) == size


@pytest.mark.parametrize("most", [1, 2, 9, 200, 2_000])
def test_the_sizes_are_those_that_numbers_are_rounded_to_and_few(most: int) -> None:
    sizes = list(padded_sizes(most))

    assert sizes == sorted({padded_size(count) for count in range(1, most + 1)})
    assert len(sizes) <= 40


@given(st.integers(1, 70))
def test_candidates_alone_are_padded(count: int) -> None:
    rng = np.random.default_rng(count)
    table = rng.normal(size=(2 * count, 3)).astype(np.float32)
    tensors = {
        "user": np.ones((1, 2), np.float32),
        "item": table[::2],
        "ids": np.arange(count, dtype=np.int32).reshape(-1, 1),
    }

    padded = pad_candidates(tensors, ["item", "ids"])

    assert list(padded) == ["user", "item", "ids"]
    np.testing.assert_array_equal(padded["user"], tensors["user"])
    for name in ("item", "ids"):
        assert padded[name].flags.c_contiguous
        assert padded[name].dtype == tensors[name].dtype
        assert len(padded[name]) == padded_size(count)
        np.testing.assert_array_equal(padded[name][:count], tensors[name])
        assert not padded[name][count:].any()
