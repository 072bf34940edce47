"""Inputs and outputs of the benchmark's models that are not networks. Fits none."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.dataset.load import Dataset
from msd.ranker.features import Features
from msd.teachers.knowledge import KnowledgeBase

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Given(NamedTuple):
    """Inputs of a model; `features` have the vectors of its variant's source, if it has one."""

    dataset: Dataset
    knowledge: KnowledgeBase
    features: Features
    seed: int


# Fits on the training rows and returns click probabilities [n] of given events.
Fitted = Callable[[Given, Rows], Floats]
