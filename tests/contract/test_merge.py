"""Requests put together in one run: every candidate keeps its own user, and every request gets its own scores back."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.assemble import Tensors
from msd.contract.merge import REQUEST_OF, candidates_of, merge, split
from tests.bundles.factory import example_schema

SCHEMA = example_schema()


def _request(number: int, candidates: int) -> Tensors:
    """Tensors all of whose values tell the request, and the candidate, that they are of."""
    tensors: Tensors = {}
    for spec in SCHEMA.tensors:
        rows = np.arange(candidates if spec.side == "item" else 1).reshape(-1, *[1] * len(spec.shape))
        tensors[spec.name] = (1_000 * number + rows + np.zeros(spec.shape)).astype(spec.dtype)
    return tensors


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 10))
def test_each_candidate_finds_its_user_and_each_request_its_scores(counts: list[int], spare: int) -> None:
    requests = [_request(number, count) for number, count in enumerate(counts, start=1)]
    merged = merge(SCHEMA, requests, rows=spare)

    assert candidates_of(SCHEMA, requests) == counts
    of_request = merged[REQUEST_OF.name]
    assert of_request.dtype == np.int32
    for spec in SCHEMA.tensors:
        tensor = merged[spec.name]
        assert tensor.dtype == spec.dtype
        if spec.side == "item":
            np.testing.assert_array_equal(tensor.reshape(len(tensor), -1)[:, 0] // 1_000, 1 + of_request)
        else:
            assert len(tensor) == max(len(counts), spare)
            np.testing.assert_array_equal(
                tensor[: len(counts)].reshape(len(counts), -1)[:, 0] // 1_000, np.arange(1, len(counts) + 1)
            )
            assert not tensor[len(counts) :].any()
    name = next(spec.name for spec in SCHEMA.tensors if spec.side == "item")
    for number, scores in enumerate(split({"pctr": merged[name]}, counts)):
        np.testing.assert_array_equal(scores["pctr"], requests[number][name])
