"""Recipe of a bundle, independent of the ranker's library: graph, expected scores, data and provenance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.encoder_record import ColdAds
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Tensors
from msd.contract.words import BagOfWords
from msd.dataset.load import Dataset
from msd.ranker.adaptor import Adaptors
from msd.ranker.features import Features
from msd.student.encoder import Student
from msd.student.vectors import StudentVectors
from msd.teachers.knowledge import KnowledgeBase


@dataclass(frozen=True)
class Recipe:
    """All contents of a bundle.

    `graph`: makes the ranker in fp32 on the schema's tensors, with one output [N] per head. `scores`: expected scores
    [H, N] of a request's tensors, computed by `scored_by`. `adaptors`: applied to vectors before they enter rows.
    `student`: makes the semantics of cold ads, if there are any. `words`: makes the words of item rows from a teacher's
    answers, if the student was taught. `cold_ads`: measures their quality on the valid rows,
    if possible. `provenance`: origin, for the manifest.
    """

    dataset: Dataset
    schema: FeatureSchema
    heads: Sequence[str]
    graph: Callable[[], bytes]
    scores: Callable[[Tensors], NDArray[np.float32]]
    scored_by: str
    vectors: StudentVectors
    adaptors: Adaptors
    student: Student | None
    words: BagOfWords | None
    cold_ads: Callable[[Features], ColdAds | None]
    knowledge: KnowledgeBase
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    fingerprint: str
