"""Merges several requests' tensors into one run: each user once, all candidates in sequence, and each candidate's
request.

Knows only shapes. Does not know when merging pays, nor what runs it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.schema import FeatureSchema, TensorSpec

REQUEST_OF = TensorSpec(name="request_of_candidate", side="item", dtype="int32", shape=())
"""[N] the request, from 0, of each candidate. Users and contexts then have R rows instead of one."""


def merge(schema: FeatureSchema, requests: Sequence[Tensors], rows: int | None = None) -> Tensors:
    """Merge the tensors of R ≥ 1 requests, with N candidates in total: users and contexts [R, …], candidates [N, …].

    `rows`: minimum number of user rows; additional ones are zeros.
    """
    merged = {spec.name: np.concatenate([one[spec.name] for one in requests]) for spec in schema.tensors}
    if rows is not None and rows > len(requests):
        for spec in schema.tensors:
            if spec.side != "item":
                padding = np.zeros((rows - len(requests), *spec.shape), merged[spec.name].dtype)
                merged[spec.name] = np.concatenate([merged[spec.name], padding])
    counts = candidates_of(schema, requests)
    return {**merged, REQUEST_OF.name: np.repeat(np.arange(len(requests), dtype=np.int32), counts)}


def split(scores: Mapping[str, NDArray[Any]], counts: Sequence[int]) -> Iterator[dict[str, NDArray[Any]]]:
    """Split scores [N] by head into each request's."""
    ends = np.cumsum([0, *counts])
    for start, end in pairwise(ends.tolist()):
        yield {head: column[start:end] for head, column in scores.items()}


def candidates_of(schema: FeatureSchema, requests: Sequence[Tensors]) -> list[int]:
    """Return each request's number of candidates."""
    name = next(spec.name for spec in schema.tensors if spec.side == "item")
    return [len(one[name]) for one in requests]
