"""Padding of candidates to a few sizes, for runtimes that make kernels for each new number."""

from collections.abc import Iterable, Iterator

import numpy as np

from msd.contract.assemble import Tensors

_SIZES_AN_OCTAVE = 4


def padded_size(count: int) -> int:
    """`count`, at least 1, rounded up to one of four sizes between each power of two and the next."""
    step = 1 << max(0, (count - 1).bit_length() - _SIZES_AN_OCTAVE.bit_length())
    return -(-count // step) * step


def padded_sizes(most: int) -> Iterator[int]:
    """Yield the sizes that numbers from 1 to `most` are rounded up to, the smallest first."""
    size = 0
    while size < most:
        size = padded_size(size + 1)
        yield size


def pad_candidates(tensors: Tensors, candidate_inputs: Iterable[str]) -> Tensors:
    """Return contiguous tensors, with the candidates' padded by rows of zeros."""
    padded = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    for name in candidate_inputs:
        tensor = padded[name]
        size = padded_size(len(tensor))
        if size != len(tensor):
            padded[name] = np.zeros((size, *tensor.shape[1:]), tensor.dtype)
            padded[name][: len(tensor)] = tensor
    return padded
