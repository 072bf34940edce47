"""Fit of the deviation of ads' log-odds from the model's, and its coverage of held-out ads.

An ad's rows share one effect: a normal deviation of their log-odds. Its variance falls with what the model knows of the
ad (`msd.contract.uncertainty`). Its three parameters maximise the marginal likelihood of the clicks (a random intercept
model). Knows scores, not models.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from msd.contract.uncertainty import LEAST_RATIO, Coverage, Uncertainty
from msd.metrics import Labels, sigmoid

Floats = NDArray[np.float64]
_QUADRATURE = 31
# Start of the search, and mean of a normal prior on the logarithms with standard deviation 1: few clicks change little.
_START = np.log([0.5, 1.0, 0.1])
_PRIOR = 0.5
_MOST = np.log([10.0, 1_000.0, 1.0])
# Only this many of an ad's first rows measure its deviation.
_ROWS_PER_AD = 200
_LEAST_ROWS = 5
LEAST_ADS = 20


class AdRows(NamedTuple):
    """Rows of ads: log-odds [n] of scores, impressions [n] of the ad that the model saw, labels [n], and ads [n]."""

    logits: Floats
    impressions: Floats
    labels: Labels
    ads: NDArray[np.int64]

    def of(self, rows: NDArray[Any]) -> Self:
        """Return some rows, by mask or by number."""
        return type(self)(self.logits[rows], self.impressions[rows], self.labels[rows], self.ads[rows])

    def std(self, uncertainty: Uncertainty) -> Floats:
        """Return the standard deviation [n] of each row's log-odds."""
        return uncertainty.logit_std(self.impressions, sigmoid(self.logits)).astype(np.float64)


def fit_uncertainty(new: AdRows, known: AdRows, seed: int = 0) -> Uncertainty:
    """Fit on the same rows twice: `new`, scored without the ads' IDs and counts, and `known`, scored with them.

    Coverage is measured on each half of the ads with a fit on the other half.
    """
    ads = np.unique(known.ads)
    half = np.random.default_rng(seed).permutation(len(ads)) % 2
    is_second = half[np.searchsorted(ads, known.ads)] == 1
    middle = float(np.median(known.impressions))
    groups = {"new": new, "rare": known, "frequent": known}
    found: dict[str, list[_Held]] = {name: [] for name in groups}
    for held in (is_second, ~is_second):
        fitted = _fit(new.of(~held), known.of(~held))
        for name, rows in groups.items():
            kept = held if name == "new" else held & ((known.impressions <= middle) == (name == "rare"))
            found[name] += _held(rows.of(kept), fitted, seed)
    coverage = {name: _coverage(ads) for name, ads in found.items() if ads}
    return _fit(new, known).model_copy(update={"coverage": coverage})


class _Held(NamedTuple):
    """Held-out ad: position of its clicks in their predicted distribution, with uncertainty (`place`) and without
    (`certain`), and its standard deviation."""

    place: float
    certain: float
    std: float


def _coverage(ads: list[_Held]) -> Coverage:
    place, certain, std = (np.array(column) for column in zip(*ads, strict=True))
    return Coverage(
        items=len(ads),
        within_50=float((np.abs(place - 0.5) < 0.25).mean()),
        within_90=float((np.abs(place - 0.5) < 0.45).mean()),
        certain_90=float((np.abs(certain - 0.5) < 0.45).mean()),
        median_std=float(np.median(std)),
    )


def _fit(new: AdRows, known: AdRows) -> Uncertainty:
    views = [_Sorted.of(rows) for rows in (new, known)]

    def loss(logs: Floats) -> float:
        likelihood = sum(view.log_likelihood(view.rows.std(_of(logs))) for view in views)
        return -likelihood + float(((logs - _START) ** 2).sum()) * _PRIOR

    best = minimize(loss, _START, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 0.05, "maxiter": 200})
    return _of(best.x)


def _of(logs: Floats) -> Uncertainty:
    new, information, floor = (float(one) for one in np.exp(np.clip(logs, -10.0, _MOST)))
    return Uncertainty(new=new, information=information, floor=max(floor, LEAST_RATIO * new))


class _Sorted(NamedTuple):
    """Rows sorted by ad, and the start of each ad's rows."""

    rows: AdRows
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, rows: AdRows) -> Self:
        order = np.argsort(rows.ads, kind="stable")
        ads = rows.ads[order]
        return cls(rows.of(order), np.flatnonzero(np.append(True, ads[1:] != ads[:-1])))

    def log_likelihood(self, std: Floats) -> float:
        """Return the log-likelihood of all clicks, with each ad's effect integrated out (Gauss-Hermite)."""
        normals, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
        logits = self.rows.logits[:, None] + std[:, None] * normals
        signs = np.where(self.rows.labels > 0, -1.0, 1.0)[:, None]
        by_ad = np.add.reduceat(-np.logaddexp(0.0, signs * logits), self.starts, axis=0)
        most = by_ad.max(1, keepdims=True)
        return float((np.log(np.exp(by_ad - most) @ (weights / weights.sum())) + most[:, 0]).sum())


def _held(rows: AdRows, uncertainty: Uncertainty, seed: int) -> list[_Held]:
    """Return the held-out ads with at least 5 rows."""
    if not len(rows.ads):
        return []
    by_ad, rng = _Sorted.of(rows), np.random.default_rng(seed)
    found = []
    for own in np.split(np.arange(len(rows.ads)), by_ad.starts[1:]):
        ad = by_ad.rows.of(own[:_ROWS_PER_AD])
        if len(ad.ads) >= _LEAST_ROWS:
            std, drawn = ad.std(uncertainty), rng.random()
            found.append(_Held(_place(ad, std, drawn), _place(ad, 0.0 * std, drawn), float(np.median(std))))
    return found


def _place(ad: AdRows, std: Floats, drawn: float) -> float:
    """Return the position of an ad's click count in its predicted distribution, uniform if that is right (randomised
    probability integral transform; Czado, Gneiting and Held 2009). The count is a sum of unequal draws, mixed over the
    ad's effect."""
    normals, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
    rates = sigmoid(ad.logits[:, None] + std[:, None] * normals)
    counts = np.zeros((len(rates) + 1, len(normals)))
    counts[0] = 1.0
    for number, rate in enumerate(rates, start=1):
        counts[1 : number + 1] = counts[1 : number + 1] * (1 - rate) + counts[:number] * rate
        counts[0] *= 1 - rate
    chance, clicks = counts @ (weights / weights.sum()), int(ad.labels.sum())
    return float(chance[:clicks].sum() + drawn * chance[clicks])
