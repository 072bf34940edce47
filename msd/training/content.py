"""Ridge regression of clicks on an item's content, within groups: what makes one item of a randomised test win.

A group is a user of the dataset, such as a test; its items were shown alike, so that they differ by content alone.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from sklearn.linear_model import Ridge

from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.training.train import EpochReport, Judge, TrainError, new_model

Floats = NDArray[np.float64]
Known = Any
"""What is known of items [n, D], by row of the item: a dense or a sparse matrix."""
_SPREAD = 0.02  # variance of the log-odds of an arm that no content explains
_PENALTIES = np.logspace(-4, 0, 9)  # shares of the sum of squares


class Arms(NamedTuple):
    """Arms [a], each an item of a group: row of the item, log-odds of a click, and the precision of these. `centre`
    [a, a]: sparse matrix that subtracts the mean of each arm's group."""

    item: NDArray[np.int64]
    log_odds: Floats
    precision: Floats
    centre: Any

    @classmethod
    def of(cls, features: Features, *parts: Part) -> "Arms":
        """Count the events of some parts. Half a click and half a miss are added to each arm (Haldane 1956)."""
        events = features.of_part(*parts)
        labels, shown = features.outcomes(events)
        rows = np.stack([side.rows.cpu().numpy()[events] for side in (features.user, features.item)])
        (users, items), arm = np.unique(rows, axis=1, return_inverse=True)
        clicks, misses = (np.bincount(arm.reshape(-1), shown * outcome) + 0.5 for outcome in (labels, 1 - labels))
        precision = 1 / (1 / clicks + 1 / misses + _SPREAD)
        group = np.unique(users, return_inverse=True)[1]
        of_group = sparse.csr_matrix((np.ones(len(group)), (np.arange(len(group)), group)))
        mean = sparse.diags(1 / np.bincount(group, precision)) @ of_group.T @ sparse.diags(precision)
        centre = sparse.eye(len(group), format="csr") - of_group @ mean
        return cls(items.astype(np.int64), np.log(clicks / misses), precision, centre)

    def centred(self, known: Known) -> tuple[Known, Floats]:
        """Return what is known of each arm's item [a, D], and its log-odds [a], both less the mean of the group."""
        return self.centre @ known[self.item], self.centre @ self.log_odds


def fit_content(features: Features, known: Known) -> tuple[Floats, float]:
    """Return weights [D] and the intercept of the log-odds of a click, fitted on window and train rows within groups.
    The penalty is the one with the least weighted squared error within the groups of the valid rows.

    Raises TrainError if no group shows two items that differ.
    """
    train, valid = Arms.of(features, Part.WINDOW, Part.TRAIN), Arms.of(features, Part.VALID)
    inputs, target = train.centred(known)
    squares = float(train.precision @ np.asarray(sparse.csr_matrix(inputs).power(2).sum(1)).reshape(-1))
    if not squares:
        raise TrainError("no user of the train rows saw two items with different texts, so none can be compared")
    valid_inputs, valid_target = valid.centred(known)
    tried = []
    for penalty in _PENALTIES:
        model = Ridge(alpha=penalty * squares, fit_intercept=False).fit(inputs, target, train.precision)
        error = float(valid.precision @ (valid_target - valid_inputs @ model.coef_) ** 2)
        tried.append((error, model.coef_))
    weights = min(tried, key=lambda one: one[0])[1]
    rest = train.log_odds - known[train.item] @ weights
    return weights, float(np.average(rest, weights=train.precision))


def train_content(features: Features, config: RankerConfig, seed: int) -> tuple[TrainedRanker, list[EpochReport]]:
    """Return a ranker of the network `content`, fitted by `fit_content` and calibrated on valid rows, and its valid
    AUC."""
    model = new_model(features, config, seed)
    with torch.no_grad():
        known = model.adaptors.adapt(features).adapted["item"]
        weights, intercept = fit_content(features, known.cpu().numpy().astype(np.float64))
        model.ranker.head.weight.copy_(torch.from_numpy(weights)[None])
        model.ranker.head.bias.fill_(intercept)
    judge = Judge(features, live=False)
    auc = judge.blend(model)
    judge.calibrate(model)
    return model.eval(), [EpochReport(1, 0.0, auc)]
