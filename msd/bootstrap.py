"""Uncertainty of metrics and differences by bootstrap over users or rows, with the same resamples for every model.

A resample is a weight per row, so each model's rows are sorted once for all resamples.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.metrics import row_losses

Floats = NDArray[np.float64]
_CELLS = 1 << 19


class Resampled(NamedTuple):
    """AUC and logloss [M, R] of M models over R resamples; AUC is NaN where a resample has one label only."""

    auc: Floats
    logloss: Floats


def resample_metrics(
    labels: Floats,
    probabilities: Floats,
    groups: NDArray[np.int64],
    resamples: int = 1_000,
    seed: int = 0,
    impressions: Floats | None = None,
) -> Resampled:
    """Return both metrics of M models, with probabilities [M, n], over resamples of the n rows.

    Cluster bootstrap (Efron and Tibshirani 1993): a resample draws as many groups as there are, with replacement, and a
    group brings all its rows. Groups are users, or single rows. One group cannot vary: NaN. `impressions` [n]: how many
    each row stands for.
    """
    if len(np.unique(groups)) < 2:
        unknown = np.full((len(probabilities), resamples), np.nan)
        return Resampled(unknown, unknown)
    rankings = [_Ranking.of(labels, probability) for probability in probabilities]
    losses = row_losses(labels, probabilities)
    auc, logloss = [], []
    for drawn in draw_weights(groups, resamples, seed):
        weights = drawn if impressions is None else drawn * impressions
        auc.append(np.stack([ranking.auc(weights) for ranking in rankings]))
        logloss.append(losses @ weights.T / weights.sum(1))
    return Resampled(np.concatenate(auc, axis=1), np.concatenate(logloss, axis=1))


def compare(ours: Floats, theirs: Floats) -> dict[str, Any]:
    """Return the uncertainty of the difference of two models' means over seeds, from their resampled metrics [K, R] and
    [L, R]."""
    return _sureness(ours.mean(0) - theirs.mean(0))


def compare_by_seed(ours: Floats, theirs: Floats, seed: int = 0) -> dict[str, Any]:
    """Compare like `compare`, but pair seed k of one model with that of the other ([K, R] both) and resample seeds."""
    count, resamples = ours.shape
    drawn = np.random.default_rng(seed).integers(0, count, (count, resamples))
    return _sureness(np.take_along_axis(ours - theirs, drawn, axis=0).mean(0))


def _sureness(differences: Floats) -> dict[str, Any]:
    return {"ci95": interval(differences), "p": two_sided_p(differences)}


def interval(values: Floats) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of resampled figures [R]; None if all are NaN."""
    usable = values[~np.isnan(values)]
    return (float(np.quantile(usable, 0.025)), float(np.quantile(usable, 0.975))) if len(usable) else None


def two_sided_p(differences: Floats) -> float | None:
    """Return the two-sided p: twice the share of resampled differences [R] on the rarer side of zero, at most 1. One
    resample without a difference is added, so that p is never 0 (Davison and Hinkley 1997, section 4.2)."""
    usable = differences[~np.isnan(differences)]
    if not len(usable):
        return None
    rarer = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(usable) + 1))


def resampled_sums(groups: NDArray[np.int64], columns: Floats, resamples: int = 1_000, seed: int = 0) -> Floats:
    """Return the columns' [C, n] sums over resamples of the groups [C, R], each with all its rows; NaN of one group,
    which cannot vary. Sums that are drawn with the same groups and seed are of the same resamples."""
    _, of_row = np.unique(groups, return_inverse=True)
    by_group = np.stack([np.bincount(of_row, column) for column in columns])
    rng, count = np.random.default_rng(seed), by_group.shape[1]
    if count < 2:
        return np.full((len(columns), resamples), np.nan)
    drawn = [by_group @ np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples)]
    return np.stack(drawn, axis=1)


def draw_weights(groups: NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """Yield each row's count in each resample, in chunks [r, n]; the same for equal groups and seed."""
    rng = np.random.default_rng(seed)
    _, of_row = np.unique(groups, return_inverse=True)
    count = int(of_row.max()) + 1
    # Limits memory; the draws do not depend on it.
    chunk = max(8, _CELLS // len(groups))
    for start in range(0, resamples, chunk):
        drawn = [
            np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(min(chunk, resamples - start))
        ]
        yield np.stack(drawn).astype(np.float64)[:, of_row]


class _Ranking(NamedTuple):
    """Rows sorted by ascending probability, and the start of each run of ties."""

    order: NDArray[np.int64]
    clicked: Floats
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: Floats, probabilities: Floats) -> "_Ranking":
        order = np.argsort(probabilities, kind="stable")
        sorted_ = probabilities[order]
        starts = np.flatnonzero(np.append(True, np.diff(sorted_) > 0))
        return cls(order, labels[order], starts)

    def auc(self, weights: Floats) -> Floats:
        """Return the weighted AUC [r] under weights [r, n], from one cumulative sum: the share of pairs ranked right, a
        tie counting half (the Mann–Whitney statistic)."""
        ordered = weights[:, self.order]
        clicks = ordered * self.clicked
        others = ordered - clicks
        if len(self.starts) < len(self.order):
            clicks, others = (np.add.reduceat(one, self.starts, axis=1) for one in (clicks, others))
        below = np.cumsum(others, axis=1) - others / 2
        pairs = clicks.sum(1) * others.sum(1)
        won = np.einsum("rn,rn->r", clicks, below)
        aucs: Floats = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return aucs
