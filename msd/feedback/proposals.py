"""What two bundles would have put first in explored requests, and what that would have earned: a doubly robust estimate
whose reward model is fitted on the log and is neither bundle's own (cross-fitting; Chernozhukov et al. 2018).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from msd.bootstrap import resampled_sums
from msd.feedback.arms import PER, Estimate, earned
from msd.feedback.policy_value import ExploredRequests, Rewards, estimate_of, support, value_of

Floats = NDArray[np.float64]
Figures = dict[str, Any]
_FOLDS = 5
_PRIOR_IMPRESSIONS = 20.0
_LEAST = 1e-6
_SHOWN, _OLD, _NEW = range(3)


class Proposal(NamedTuple):
    """One explored request whose first candidate was shown: the number of that impression, its propensity, and three
    candidates: what was first, and what the old and the new bundle would have put first. Of these the IDs; pCTR and
    eCPM, NaN without a bid, by both bundles [2][3]; and whether each is paid by clicks."""

    number: int
    propensity: float
    ids: tuple[str, ...]
    pctr: tuple[NDArray[np.float32], ...]
    ecpm: tuple[Floats, ...]
    by_click: tuple[bool, ...]


def value_of_proposals(
    proposals: Sequence[Proposal], impressions: pl.DataFrame, users: NDArray[np.int64], resamples: int
) -> Figures | None:
    """Return the value of a first impression under each bundle and of their difference, by IPS, SNIPS and DR; the share
    that the new one loses; and how the log supports that, where the bundles differ. None without proposals.

    `impressions` are those that the proposals' numbers are of; `users` [n] their users.
    """
    if not proposals:
        return None
    rows = [one.number for one in proposals]
    clicked = impressions["label"].to_numpy()[rows].astype(np.float64)
    paid = impressions.select(earned(impressions).cast(pl.Float64)).to_series().to_numpy()[rows]
    metric = "rpm" if paid.any() else "ctr"
    of, propensity = users[rows], np.array([one.propensity for one in proposals])
    ids = np.array([one.ids for one in proposals])
    pctr = np.clip(np.array([one.pctr for one in proposals], np.float64), _LEAST, 1 - _LEAST)  # [n, 2, 3]
    predicted = clicks_of(np.log(pctr / (1 - pctr)), ids, clicked, of)
    if metric == "rpm":
        ecpm = np.nan_to_num(np.array([one.ecpm for one in proposals]))
        by_click = np.array([one.by_click for one in proposals])[:, None]
        # The eCPM of a click is a bundle's eCPM by its pCTR; what else it depends on is both bundles' mean.
        predicted = np.where(by_click, ecpm / pctr * predicted[:, None], ecpm).mean(1) / 1_000
    reward = paid if metric == "rpm" else clicked
    chosen = (ids[:, [_SHOWN]] == ids[:, [_OLD, _NEW]]).astype(np.float64)
    made = {
        name: ExploredRequests(of, propensity, target, {metric: Rewards(reward, predicted[:, _SHOWN], of_target)})
        for name, target, of_target in (
            ("old", chosen[:, 0], predicted[:, _OLD]),
            ("new", chosen[:, 1], predicted[:, _NEW]),
            # IPS and DR are linear in the target: that of a difference of targets is the difference, with its interval.
            ("difference", chosen[:, 1] - chosen[:, 0], predicted[:, _NEW] - predicted[:, _OLD]),
        )
    }
    values = {name: value_of(one, metric, PER[metric], resamples)._asdict() for name, one in made.items()}
    for name in ("logged", "snips"):
        del values["difference"][name]
    differ = ids[:, _OLD] != ids[:, _NEW]
    supports = [support(made[name].only(differ), resamples) for name in ("old", "new") if differ.any()]
    return {
        "of": metric,
        "requests": len(rows),
        "differ": int(differ.sum()),
        "lost": _lost(made["difference"], made["old"], metric, resamples),
        "support": min(supports, key=lambda one: (one.is_whole, one.effective), default=None),
        **values,
    }


def _lost(gap: ExploredRequests, old: ExploredRequests, metric: str, resamples: int) -> Estimate:
    """Return the share of the old bundle's value (DR) that the new one loses."""
    sums = np.stack([-gap.corrected(metric), old.corrected(metric)])
    drawn = resampled_sums(gap.users, sums, resamples)
    whole, lost = sums[1].sum(), np.full(resamples, np.nan)
    np.divide(drawn[0], drawn[1], out=lost, where=drawn[1] > 0)
    return estimate_of(float(sums[0].sum() / whole) if whole > 0 else 0.0, lost)


def clicks_of(logits: Floats, ids: NDArray[np.str_], clicked: Floats, users: NDArray[np.int64]) -> Floats:
    """Return the click probability [n, 3] of each proposal's candidates, by logistic regression on both bundles'
    log-odds [n, 2, 3] and the item's click rate, fitted on what other users were shown: the first candidates [n], and
    whether they were `clicked`."""
    predicted = np.empty(ids.shape)
    fold = np.random.default_rng(0).permutation(int(users.max()) + 1)[users] % _FOLDS
    items = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    for one in range(_FOLDS):
        ours, others = fold == one, fold != one
        mean = float((clicked[others].sum() + 1) / (others.sum() + 2))
        if len(np.unique(clicked[others])) < 2:
            predicted[ours] = mean
            continue
        shown = items[others, _SHOWN]
        counts, clicks = (np.bincount(shown, one, items.max() + 1) for one in (np.ones(len(shown)), clicked[others]))
        # An impression that is fitted is left out of its own item's rate.
        rates = (clicks + _PRIOR_IMPRESSIONS * mean) / (counts + _PRIOR_IMPRESSIONS)
        left_out = (clicks[shown] - clicked[others] + _PRIOR_IMPRESSIONS * mean) / (
            counts[shown] - 1 + _PRIOR_IMPRESSIONS
        )
        fitted = LogisticRegression(solver="newton-cholesky").fit(
            _features(logits[others, :, _SHOWN], left_out), clicked[others]
        )
        features = _features(logits[ours].swapaxes(1, 2).reshape(-1, 2), rates[items[ours]].ravel())
        predicted[ours] = fitted.predict_proba(features)[:, 1].reshape(-1, 3)
    return predicted


def _features(logits: Floats, rates: Floats) -> Floats:
    features: Floats = np.column_stack([logits, np.log(rates / (1 - rates))])
    return features
