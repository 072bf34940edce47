"""Fit of the content model: a linear model of items' content per user, in closed form.

What all users think of an item's content is a ridge regression over items, each with its clicks less what its users
click anyway. What one user thinks beyond that has a normal prior, which all users share and which EM learns.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msd.dataset.split import Part
from msd.ranker.features import Features
from msd.ranker.model import ContentModel

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
ROUNDS = 25
_COMPONENTS = 24  # of the items' vectors
_USERS = 5_000  # at most, that teach the prior, and whose weights are solved at once
_NUMBERS = 30_000_000  # of their matrices [D, D] together, 240 MB
_FEW = 10.0  # rows; a mean of as many counts half
_CLICK, _ITEM, _WEIGHT = 0.2, 0.01, 0.01  # variances: of a click, of an item's unexplained click rate, of a weight
_LEAST = 1e-6


class Prior(NamedTuple):
    """Normal prior of users' weights, mean [D] and covariance [D, D], and the variance of a click around them."""

    mean: Floats
    covariance: Floats
    noise: float


@dataclass(frozen=True)
class _Inputs:
    """Rows [n, D] made as they are asked for: those of `items` [·, D] by row, times `weights` [n]."""

    items: Floats
    rows: NDArray[np.int32]
    weights: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and their width."""
        return len(self.rows), self.items.shape[1]

    def __getitem__(self, chosen: Rows | NDArray[np.bool_]) -> Floats:
        return self.weights[chosen, None] * self.items[self.rows[chosen]]


def train_content(model: ContentModel, features: Features) -> None:
    """Fit the model on window and train rows. Its logits are linear: clicks less their mean, over a click's
    variance."""
    events = features.of_part(Part.WINDOW, Part.TRAIN)
    labels, shown = features.outcomes(events)
    user_ids = features.user.categorical[:, model.user_id].cpu().numpy().astype(np.int64)
    user, item = (side.rows.cpu().numpy()[events] for side in (features.user, features.item))
    user = user_ids[user]
    vectors = features.adapted["item"].cpu().numpy().astype(np.float64) if "item" in features.adapted else None
    components = np.linalg.svd(vectors, full_matrices=False)[2][:_COMPONENTS] if vectors is not None else None
    x = _described(model, features, None if components is None else vectors @ components.T)

    mean = float(np.average(labels, weights=shown))
    seen = np.bincount(user, shown, len(model.users.weight))
    habit = np.bincount(user, shown * (labels - mean), len(seen)) / (seen + _FEW)
    surprise, root = labels - mean - habit[user], np.sqrt(shown)
    shared, opinion = _shared(x, item, surprise, shown)
    inputs, rest = _Inputs(x, item, root), root * (surprise - opinion[item])
    own = posterior_means(user, inputs, rest, len(seen), learn_prior(user, inputs, rest))
    average = own[seen > 0].mean(0)
    own = np.where((seen > 0)[:, None], own - average, 0.0)

    # A few directions hold most of the differences between users, over the items as they are.
    centre, root_of = x[:-1].mean(0), np.linalg.cholesky(np.cov(x[:-1].T, bias=True) + _LEAST * np.eye(x.shape[1]))
    differences = own @ root_of
    directions = np.linalg.eigh(differences.T @ differences)[1][:, : -model.users.weight.shape[1] : -1]
    # There may be fewer inputs than directions.
    directions = np.pad(directions, ((0, 0), (0, model.users.weight.shape[1] - 1 - directions.shape[1])))
    places, of_items = differences @ directions, np.linalg.solve(root_of.T, directions)[1:]
    shared, scale = shared + average, 1.0 / max(mean * (1.0 - mean), _LEAST)
    constant = shared[0] + habit + own @ centre - places @ (centre[1:] @ of_items)
    of_users = np.concatenate([scale * constant[:, None], places], 1)
    weights = scale * np.concatenate([shared[1:, None], of_items], 1)

    # What a vector adds, guessed from the values by ridge regression over the items that were shown with one.
    told = np.unique(item)
    if vectors is not None:
        told = told[vectors[told].any(1)]
    width = x.shape[1] - (0 if components is None else len(components))
    values, added = x[told, 1 + model.numbers : width], x[told, width:] @ weights[width - 1 :]
    guess = np.linalg.solve(values.T @ values + np.eye(values.shape[1]), values.T @ added).astype(np.float64)
    _set(model, weights, guess, components, of_users)


def learn_prior(user: Rows, x: Floats | _Inputs, label: Floats) -> Prior:
    """Return the prior of the weights with which users' inputs [n, D] predict labels [n], by EM (Yu, Tresp and
    Schwaighofer, ICML 2005)."""
    drawn = np.unique(user)
    if len(drawn) > (most := _at_once(x.shape[1])):
        drawn = np.random.default_rng(0).choice(drawn, most, replace=False)
        rows = np.isin(user, drawn)
        user, x, label = user[rows], x[rows], label[rows]
    gram, moment = sums_by_user(np.unique(user, return_inverse=True)[1], x, label, len(drawn))
    squares = float(label @ label)
    mean = np.linalg.solve(gram.sum(0) + np.eye(x.shape[1]), moment.sum(0))
    prior = Prior(mean, _WEIGHT * np.eye(x.shape[1]), _CLICK)
    for _ in range(ROUNDS):
        weights, spread = _posterior(gram, moment, prior)
        mean = weights.mean(0)
        apart = weights - mean
        covariance = (apart.T @ apart + spread.sum(0)) / len(drawn) + 1e-8 * np.eye(x.shape[1])
        fitted = float((weights * (gram @ weights[..., None])[..., 0]).sum() - 2 * (weights * moment).sum())
        noise = max((squares + fitted + float((gram * spread).sum())) / len(label), _LEAST)
        prior = Prior(mean, covariance, noise)
    return prior


def posterior_means(user: Rows, x: Floats | _Inputs, label: Floats, users: int, prior: Prior) -> Floats:
    """Return the means [users, D] of all users' weights; the prior's for a user without rows."""
    weights, most = np.tile(prior.mean, (users, 1)), _at_once(x.shape[1])
    for start in range(0, users, most):
        rows = np.flatnonzero((start <= user) & (user < start + most))
        count = min(most, users - start)
        sums = sums_by_user(user[rows] - start, x[rows], label[rows], count)
        weights[start : start + count] = _posterior(*sums, prior)[0]
    return weights


def _at_once(width: int) -> int:
    """Return the number of users whose matrices [width, width] fit into memory together."""
    return max(1, min(_USERS, _NUMBERS // width**2))


def sums_by_user(user: Rows, x: Floats | _Inputs, label: Floats, users: int) -> tuple[Floats, Floats]:
    """Return sums over each user's rows: Σ x xᵀ [users, D, D] and Σ x · label [users, D]."""
    gram, moment = np.zeros((users, x.shape[1], x.shape[1])), np.zeros((users, x.shape[1]))
    order = np.argsort(user, kind="stable")
    starts = np.searchsorted(user[order], np.arange(users + 1))
    for number, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        rows = order[start:stop]
        gram[number], moment[number] = x[rows].T @ x[rows], label[rows] @ x[rows]
    return gram, moment


def _posterior(gram: Floats, moment: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """Return the means [U, D] and covariances [U, D, D] of users' weights."""
    precision = np.linalg.inv(prior.covariance)
    spread = np.linalg.inv(gram / prior.noise + precision)
    pulled = moment / prior.noise + precision @ prior.mean
    return (spread @ pulled[..., None])[..., 0], spread


def _shared(x: Floats, item: Rows, surprise: Floats, shown: Floats) -> tuple[Floats, Floats]:
    """Return the weights [D] of all users together, and the mean surprise [n] of each item, shrunk towards what they
    predict."""
    seen = np.bincount(item, shown, len(x))
    mean = np.bincount(item, shown * surprise, len(x)) / np.maximum(seen, _LEAST)
    precision = np.where(seen > 0, 1.0 / (_CLICK / np.maximum(seen, _LEAST) + _ITEM), 0.0)
    weighed = x * precision[:, None]
    weights = np.linalg.solve(weighed.T @ x + np.eye(x.shape[1]) / _WEIGHT, weighed.T @ mean)
    return weights.astype(np.float64), (seen * mean + _FEW * (x @ weights)) / (seen + _FEW)


def _described(model: ContentModel, features: Features, reduced: Floats | None) -> Floats:
    """Return inputs [n + 1, D] of items: a constant 1, numbers, indicators of values, and their reduced vectors."""
    entities = features.item.entities
    parts = [np.ones((len(entities.numeric), 1)), entities.numeric]
    for columns, size in model.fields:
        marks = np.zeros((len(entities.numeric), size))
        np.put_along_axis(marks, entities.categorical[:, columns], 1.0, axis=1)
        parts.append(marks[:, 1:])
    return np.concatenate([*parts, *([] if reduced is None else [reduced])], 1).astype(np.float64)


def _set(model: ContentModel, weights: Floats, guess: Floats, components: Floats | None, users: Floats) -> None:
    """Put the weights [D − 1, 1 + R] of `_described` inputs but the constant, those of the guess from the values
    [K, 1 + R], and of users [U, 1 + R], into the model."""
    places = np.cumsum([size - 1 for _, size in model.fields], dtype=np.int64)
    numbers, *values, reduced = np.split(weights, model.numbers + np.append(0, places))
    vectors = components.T @ reduced if components is not None else reduced
    with torch.no_grad():
        if model.linear is not None:
            model.linear.weight.copy_(torch.from_numpy(np.concatenate([numbers, vectors]).T))
        for table, *known in zip(model.values, values, np.split(guess, places)[:-1], strict=True):
            assert isinstance(table, nn.Embedding)
            table.weight.copy_(torch.from_numpy(np.pad(np.concatenate(known[: model.sets], 1), ((1, 0), (0, 0)))))
        model.users.weight.copy_(torch.from_numpy(users))
