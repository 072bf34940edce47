"""Ranking of the items that one group saw: pairs ranked right, and clicks lost by a model's choice.

A group is a user of the dataset, such as a randomised test; its items are compared by their counts.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import compare, draw_weights, interval
from msd.metrics import Labels, Probabilities, Weights, groups_of

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
SIGNIFICANT = 1.96
PER = 1_000  # impressions per unit of regret
CHANCE = "chance"
METRICS = ("pair_accuracy", "significant_pair_accuracy", "regret")
_FEWEST_PAIRS, _MOST_STEPS = 100, 5


class Compared(NamedTuple):
    """Arms [a], each an item of a group: group, impressions and clicks. `arm` [n]: arm of each row.

    `left`, `right` [p]: arms of each pair within a group with different rates; the left rate is higher. `z` [p]: the
    difference in standard errors.
    """

    group: Places
    shown: Floats
    clicks: Floats
    arm: Places
    left: Places
    right: Places
    z: Floats

    @classmethod
    def of(cls, labels: Labels, impressions: Weights, groups: Places, items: Places) -> "Compared":
        """Compare n rows by group and item."""
        keys, arm = np.unique(np.stack([groups, items]), axis=1, return_inverse=True)
        arm = arm.reshape(-1)
        shown: Floats = np.bincount(arm, impressions).astype(np.float64)
        clicks: Floats = np.bincount(arm, impressions * labels).astype(np.float64)
        pairs = [pair for rows in groups_of(keys[0]) for pair in combinations(rows.tolist(), 2)]
        one, other = np.array(pairs, np.int64).reshape(-1, 2).T
        rate = clicks / shown
        pooled = (clicks[one] + clicks[other]) / (shown[one] + shown[other])
        error = np.sqrt(pooled * (1 - pooled) * (1 / shown[one] + 1 / shown[other]))
        gap = rate[one] - rate[other]
        told = gap != 0
        left, right = np.where(gap > 0, one, other)[told], np.where(gap > 0, other, one)[told]
        return cls(keys[0], shown, clicks, arm, left, right, np.abs(gap[told]) / error[told])

    def scores(self, impressions: Weights, probabilities: Probabilities) -> Floats:
        """Return the log-odds [a] of each arm's mean probability, from the rows' probabilities [n]."""
        mean = np.bincount(self.arm, impressions * probabilities) / self.shown
        return np.log(mean / (1 - mean))

    def gaps(self, scores: Floats) -> Floats:
        """Return the score difference [p] of each pair's better and worse arm; negative if the model ranks it wrong."""
        return scores[self.left] - scores[self.right]


def measure_within(
    compared: Compared, models: Mapping[str, Floats], first: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Return, by model, the shares of pairs ranked right (ties counting half) and regret: the clicks per 1,000
    impressions that its choice loses against the arm with the highest rate of each group. `models`: scores [K, a] of K
    seeds.

    The highest observed rate is partly luck, so no model's regret is 0. `chance` is a random choice; the regret of a
    perfect one cannot be known. Intervals are over groups. `differences`: the first model's metrics minus another's.
    """
    sums = {name: np.mean([_by_group(compared, score) for score in scores], axis=0) for name, scores in models.items()}
    sums[CHANCE] = _by_group(compared, np.zeros(len(compared.shown)))
    count = next(iter(sums.values())).shape[1]
    draws = np.concatenate(list(draw_weights(np.arange(count), resamples, seed)))
    drawn = {name: _ratios(draws @ one.T) for name, one in sums.items()}
    found = {name: _ratios(one.sum(1)[None])[0] for name, one in sums.items()}
    return {
        "groups": count,
        "pairs": len(compared.z),
        "significant_pairs": int((compared.z >= SIGNIFICANT).sum()),
        "models": {name: _told(found[name], drawn[name]) for name in sums},
        "differences": [
            {
                "model": first,
                "minus": other,
                **{
                    metric: {
                        "difference": _number(found[first][at] - found[other][at]),
                        **compare(drawn[first][:, at][None], drawn[other][:, at][None]),
                    }
                    for at, metric in enumerate(METRICS)
                },
            }
            for other in sums
            if other != first
        ],
    }


def how_sure(compared: Compared, scores: Floats) -> list[dict[str, float]]:
    """Return the share of pairs ranked right by score difference: up to 5 steps of equal numbers of pairs, by ascending
    difference of log-odds. A step begins `above` a difference and has at least 100 pairs."""
    gaps = compared.gaps(scores)
    steps = min(_MOST_STEPS, len(gaps) // _FEWEST_PAIRS)
    if not steps:
        return []
    order = np.argsort(np.abs(gaps), kind="stable")
    told = []
    for number, rows in enumerate(np.array_split(order, steps)):
        right = np.where(gaps[rows] == 0, 0.5, gaps[rows] > 0)
        above = float(np.abs(gaps[rows[0]])) if number else 0.0
        told.append({"above": above, "right": float(right.mean()), "pairs": len(rows)})
    return told


def _by_group(compared: Compared, scores: Floats) -> Floats:
    """Return by group [6, G]: pairs right, pairs, significant pairs right, significant pairs, clicks lost per
    impression, 1."""
    gaps, groups = compared.gaps(scores), groups_of(compared.group)
    count = len(groups)
    _, place = np.unique(compared.group, return_inverse=True)
    of_pair, right = place[compared.left], np.where(gaps == 0, 0.5, gaps > 0)
    sure = compared.z >= SIGNIFICANT
    rate = compared.clicks / compared.shown
    lost = [rate[rows].max() - rate[rows][scores[rows] == scores[rows].max()].mean() for rows in groups]
    return np.stack(
        [
            np.bincount(of_pair, right, count),
            np.bincount(of_pair, minlength=count),
            np.bincount(of_pair, right * sure, count),
            np.bincount(of_pair, sure, count),
            np.array(lost),
            np.ones(count),
        ]
    )


def _ratios(sums: Floats) -> Floats:
    """Return metrics [R, 3] from sums over groups [R, 6]; NaN without pairs."""
    with np.errstate(invalid="ignore"):
        return np.stack([sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3], PER * sums[:, 4] / sums[:, 5]], axis=1)


def _told(found: Floats, drawn: Floats) -> dict[str, Any]:
    return {metric: {"value": _number(found[at]), "ci95": interval(drawn[:, at])} for at, metric in enumerate(METRICS)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
