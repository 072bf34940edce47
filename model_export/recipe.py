"""The recipe of a bundle, independent of the ranker's library: its graph, expected scores, data, and provenance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.encoder_record import ColdAds
from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset
from msd.ranker.adaptor import Adaptors
from msd.ranker.features import Features
from msd.student.encoder import Student
from msd.student.vectors import StudentVectors
from msd.teachers.knowledge import KnowledgeBase


@dataclass(frozen=True)
class LeanRecipe:
    """A lean graph for the same rows: the graph in fp32 on the schema's tensors with the same heads, what these should
    say of a request's tensors [H, N], and where it is from."""

    graph: Callable[[], bytes]
    scores: Callable[[Tensors], NDArray[np.float32]]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """All that goes into a bundle.

    graph: makes the ranker in fp32 on the schema's tensors, one output [N] a head. merged: the same, but for several
    requests in one run (`msd.contract.merge`), if it can be. scores: what each head should say of a request's tensors
    [H, N], as `scored_by` does. adaptors: what vectors pass through, on their way into rows.
    student: makes the semantics of cold ads, if there are any. cold_ads: what these were found to be worth on the valid
    rows, where that can be said. provenance: what the manifest says of where it is from. lean: a graph for overload.
    """

    dataset: Dataset
    schema: FeatureSchema
    heads: Sequence[str]
    graph: Callable[[], bytes]
    merged: Callable[[], bytes] | None
    scores: Callable[[Tensors], NDArray[np.float32]]
    scored_by: str
    vectors: StudentVectors
    adaptors: Adaptors
    student: Student | None
    cold_ads: Callable[[Features], ColdAds | None]
    knowledge: KnowledgeBase
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    fingerprint: str
    lean: LeanRecipe | None = None


class RecipeSource(Protocol):
    """A source of bundles."""

    @property
    def dataset(self) -> Dataset:
        """Whose rows the bundle will have."""
        ...

    def recipe(self) -> Recipe:
        """How."""
        ...
