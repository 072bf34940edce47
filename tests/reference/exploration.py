"""Which candidate is first if a request explores, and the probability of that choice, to the last digit that quadrature
gives.

Policies choose among uncertain candidates. `thompson` draws every candidate's log-odds from its normal distribution and
takes the most valuable (Chapelle and Li, NIPS 2011); `ucb` takes the most valuable at the upper end of a one-sided 95 %
interval; `uniform` draws a candidate, whatever its score. The choice is made of scores and seed alone, so that a replay
of the log makes it again. The core makes the same choices with the same operations in the same order.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.reply import DEVIATION, Choice, Formula, Scores, ecpm_of, order_of
from tests.reference.request import Request
from tests.reference.schema import hash_of

Floats = NDArray[np.float64]
MOST_COMPETING = 200
"""Candidates of a request that can be explored, the most valuable at the end of their interval: bounds the time."""
_UPPER = 1.6448536269514722
_WIDEST = 6.0
_LEAST_LOGIT = 1e-7
_LEAST = 1e-12
# Draws are clipped to where this probability is left.
_FARTHEST = 1e-9
# The logarithm of the normal distribution is interpolated, to 1e-7 of its value.
_TABLE_FROM, _TABLE_STEPS = -10.0, 1_024
# Of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXES = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT, _TO_53_BITS = np.uint64(31), np.uint64(11)


class Exploration(NamedTuple):
    """What is asked for: with probability `share`, the policy chooses the first candidate."""

    policy: str
    share: float
    seed: str


@cache
def legendre() -> tuple[Floats, Floats]:
    """Return the nodes and weights of Gauss-Legendre quadrature over [−1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return nodes, weights


@cache
def log_normal() -> Floats:
    """Return the logarithm of the normal distribution from −10 to 6, in steps of 1/1,024."""
    normals = np.arange(_TABLE_FROM, _WIDEST + 1 / _TABLE_STEPS, 1 / _TABLE_STEPS)
    return np.log([math.erfc(-normal / math.sqrt(2)) / 2 for normal in normals])


class CompetingCandidates(NamedTuple):
    """Candidates that compete [K]: their places in the request, and their values: exp(log_scale) × σ(logit + std ×
    normal)."""

    places: NDArray[np.intp]
    log_scale: Floats
    logit: Floats
    std: Floats

    def log_value(self, normal: Floats | float) -> Floats:
        """Return the logarithm of each value at a draw [K] of standard normals."""
        logit = self.logit + self.std * normal
        log: Floats = self.log_scale + (np.minimum(logit, 0.0) - np.log1p(np.exp(-np.abs(logit))))
        return log

    def only(self, kept: NDArray[Any]) -> "CompetingCandidates":
        return CompetingCandidates(*(column[kept] for column in self))


def competing(
    ids: list[str],
    pctr: NDArray[np.float32],
    std: NDArray[np.float32],
    ecpm: Floats,
    is_paid_by_click: NDArray[np.bool_],
) -> CompetingCandidates:
    """Return the candidates that may be first.

    ecpm [N]: NaN without a bid; if there is any bid, only priced candidates compete. A candidate whose value does not
    depend on its pCTR is certain. Of a repeated ID only the first of these places competes.
    """
    priced = ~np.isnan(ecpm)
    kept = np.flatnonzero(priced) if priced.any() else np.arange(len(ids))
    places = np.sort(list({ids[place]: place for place in reversed(kept.tolist())}.values()))
    score = np.clip(pctr[places].astype(np.float64), _LEAST_LOGIT, 1.0 - _LEAST_LOGIT)
    logit, deviation = np.log(score) - np.log1p(-score), std[places].astype(np.float64)
    if not priced.any():
        return _most(CompetingCandidates(places, np.zeros(len(places)), logit, deviation))
    with np.errstate(divide="ignore"):
        log_scale = np.log(ecpm[places]) - np.log(score)
    certain = ~is_paid_by_click[places] | (log_scale == -np.inf)
    return _most(CompetingCandidates(places, log_scale, logit, np.where(certain, 0.0, deviation)))


def _most(candidates: CompetingCandidates) -> CompetingCandidates:
    if len(candidates.places) <= MOST_COMPETING:
        return candidates
    upper = candidates.log_value(_UPPER)
    return candidates.only(np.sort(np.argsort(-upper, kind="stable")[:MOST_COMPETING]))


def choose_first(asked: Exploration, candidates: CompetingCandidates, greedy: int) -> Choice:
    """Return the first candidate; `greedy` is the place of the best by its score."""
    explored = bool(uniforms(asked.seed, np.zeros(1, np.intp))[0] < asked.share)
    if asked.policy == "ucb":
        best = int(np.argmax(candidates.log_value(_UPPER)))
    elif asked.policy == "uniform":
        best = int(uniforms(asked.seed, np.ones(1, np.intp))[0] * len(candidates.places))
    elif explored:
        best = int(np.argmax(candidates.log_value(_normals(uniforms(asked.seed, 1 + candidates.places)))))
    else:
        best = -1
    first = int(candidates.places[best]) if explored else greedy
    chance = 0.0
    if asked.policy == "ucb":
        chance = float(first == candidates.places[best])
    elif asked.share > 0 and len(found := np.flatnonzero(candidates.places == first)):
        is_uniform = asked.policy == "uniform"
        chance = 1 / len(candidates.places) if is_uniform else probability_of_first(candidates, int(found[0]))
    propensity = (1.0 - asked.share) * (first == greedy) + asked.share * chance
    # What was drawn had a chance, though less than quadrature can tell from none.
    return Choice(asked.policy, asked.share, asked.seed, explored, first, max(float(propensity), _LEAST))


def uniforms(seed: str, numbers: NDArray[np.intp]) -> Floats:
    """Return draws from [0, 1), by number [n]: equal for equal seeds, in every release."""
    state = np.uint64(hash_of(seed)) + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    for shift, factor in _MIXES:
        state = (state ^ (state >> shift)) * factor
    bits = (state ^ (state >> _LAST_SHIFT)) >> _TO_53_BITS
    return bits.astype(np.float64) * 2.0**-53


def _normals(uniform: Floats) -> Floats:
    """Return standard normals of uniform draws [n]: the inverse of the interpolated distribution."""
    table, log = log_normal(), np.log(np.clip(uniform, _FARTHEST, 1.0 - _FARTHEST))
    place = np.searchsorted(table, log, side="right") - 1
    normals: Floats = _TABLE_FROM + (place + (log - table[place]) / (table[place + 1] - table[place])) / _TABLE_STEPS
    return normals


def probability_of_first(candidates: CompetingCandidates, one: int) -> float:
    """Return the probability that candidate number `one` has the greatest value, if all are drawn independently: the
    integral of its density times the others' distribution functions (Gauss-Legendre)."""
    others = candidates.only(np.arange(len(candidates.places)) != one)
    own = candidates.only(np.array([one]))
    certain = others.std == 0
    fixed = others.only(certain).log_value(0.0)
    rivals = others.only(~certain)
    if own.std[0] == 0:
        value = own.log_value(0.0)
        # Equal values go to the earlier place.
        is_earlier = others.places[certain] < own.places[0]
        if (fixed > value).any() or (is_earlier & (fixed == value)).any():
            return 0.0
        return float(np.exp(_log_below(rivals, value, np.zeros(1)))[0])
    lowest = _normal_at(own, float(np.concatenate([fixed, rivals.log_value(-_WIDEST)]).max(initial=-np.inf)))
    if lowest >= _WIDEST:
        return 0.0
    nodes, weights = legendre()
    half = (_WIDEST - lowest) / 2
    normals = lowest + half * (nodes + 1.0)
    log_all = _log_below(rivals, own.log_value(normals), -normals * normals / 2)
    return min(1.0, half / math.sqrt(2 * math.pi) * float(np.add.accumulate(weights * np.exp(log_all))[-1]))


def _normal_at(own: CompetingCandidates, log_value: float) -> float:
    """Return the standard normal, from −6 to 6, at which a candidate has a value."""
    below = min(log_value - float(own.log_scale[0]), 0.0)
    if below == -np.inf:
        return -_WIDEST
    if below > -1e-15:
        return _WIDEST
    logit = below - float(np.log(1.0 - np.exp(below)))
    return float(np.clip((logit - own.logit[0]) / own.std[0], -_WIDEST, _WIDEST))


def _log_below(rivals: CompetingCandidates, log_values: Floats, log_density: Floats) -> Floats:
    """Return the logarithm of a density [M] times each rival's probability to be below the values [M]."""
    table = log_normal()
    scaled = np.minimum(log_values - rivals.log_scale[:, None], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logit = scaled - np.log(1.0 - np.exp(scaled))
        normal = (logit - rivals.logit[:, None]) / rivals.std[:, None]
        position = (normal - _TABLE_FROM) * _TABLE_STEPS
        place = np.clip(position, 0.0, len(table) - 2.0).astype(np.intp)
        below = table[place] + (table[place + 1] - table[place]) * (position - place)
    below = np.where(position < 0, -np.inf, below)
    # Above nearly all that a rival can be worth.
    below = np.where(log_values < rivals.log_value(_WIDEST)[:, None], below, 0.0)
    # One after the other: numpy's own sums take another order.
    every: Floats = np.add.accumulate(np.vstack([log_density, below]))[-1]
    return every


def first_of(
    options: Mapping[str, Any], most_share: float, request_id: str, request: Request, scores: Scores, formula: Formula
) -> Choice:
    """Return the first candidate: without a deviation of the scores the best one, unless the draw is uniform."""
    share, seed = options.get("share"), options.get("seed")
    share, seed = most_share if share is None else float(share), request_id if seed is None else str(seed)
    ecpm, pctr = ecpm_of(request.bids, request.pricing, scores, formula), scores["pctr"]
    greedy = order_of(ecpm, pctr)[0]
    if DEVIATION not in scores and options["policy"] != "uniform":
        return Choice("greedy", 0.0, seed, False, greedy, 1.0)
    heads = [("pctr",)] * len(pctr) if request.pricing is None else [formula[one] for one in request.pricing]
    by_click, std = np.array(["pctr" in one for one in heads]), scores.get(DEVIATION, np.zeros_like(pctr))
    candidates = competing(request.ids, pctr, std, ecpm, by_click)
    return choose_first(Exploration(options["policy"], share, seed), candidates, greedy)
