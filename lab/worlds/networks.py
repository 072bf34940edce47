"""Networks of the literature as rivals: they see what ours sees, and the valid rows choose learning rate and epochs."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lab.worlds.bench import Rows
from lab.worlds.law import Floats
from lab.worlds.rivals import Predict
from msd.dataset.split import Part
from msd.evaluation.regression import Outcomes
from msd.metrics import mean_logloss
from msd.ranker.features import Features
from msd.ranker.model import NetworkName, RankerConfig
from msd.training.train import TrainConfig, predict, train_ranker

# On the valid rows of `segments`, lower rates than these end lower.
_RATES = (0.01, 0.03)
_EPOCHS, _PATIENCE = 20, 2


def fit_network(features: Features, outcomes: Outcomes, network: NetworkName) -> Predict:
    """Return a network fitted on features as they are: with each learning rate until the valid AUC no longer rises, the
    best of them by logloss on the valid rows. Histories are those of ours: age, counts and item's rate of each past
    impression."""
    given = _of_outcomes(features, outcomes)
    labels, weights = outcomes.labels[outcomes.valid], outcomes.weights[outcomes.valid]
    tried = []
    with tempfile.TemporaryDirectory(prefix="msd-worlds-") as work:
        for rate in _RATES:
            config = TrainConfig(epochs=_EPOCHS, patience=_PATIENCE, learning_rate=rate, live=False)
            checkpoint = Path(work) / str(rate)
            model, _ = train_ranker(given, RankerConfig(network=network), config, checkpoint, "", lambda *_: None)
            tried.append((mean_logloss(labels, predict(model, given, outcomes.valid), weights), rate, model))
    best = min(tried, key=lambda one: one[:2])[2]

    def chances(asked: Features, rows: Rows) -> Floats:
        return predict(best, asked, rows)

    return chances


def _of_outcomes(features: Features, outcomes: Outcomes) -> Features:
    """Return the features with the outcomes as labels, and their rows alone as train and valid."""
    parts = np.full(len(features.parts), Part.TEST, np.int8)
    parts[outcomes.trained], parts[outcomes.valid] = Part.TRAIN, Part.VALID
    labels = torch.from_numpy(outcomes.labels.astype(np.float32))
    return replace(features, parts=parts, labels=labels, conversions=None, arrived=None)
