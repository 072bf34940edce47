"""Fit of the deviation of ads' log-odds from the model's, and its coverage of held-out ads.

An ad's rows share one effect: a normal deviation of their log-odds. Its variance falls with what the model knows of the
ad (`msd.contract.uncertainty`). Its one parameter maximises the marginal likelihood of the clicks (a random intercept
model). Knows scores, not models.
"""

from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from msd.contract.uncertainty import Coverage, Uncertainty
from msd.metrics import Labels, sigmoid

Floats = NDArray[np.float64]
_QUADRATURE = 31
# The logarithm of a new ad's deviation has a normal prior with this mean and variance 1, which decides for few clicks.
_USUAL = np.log(0.5)
_BOUNDS = np.log([0.01, 10.0])
# Only this many of an ad's first rows measure its deviation.
_ROWS_PER_AD = 200
_LEAST_ROWS = 5


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

    def starts(self) -> NDArray[np.intp]:
        """Return the first row of each ad, of rows sorted by ad."""
        return np.flatnonzero(np.append(True, self.ads[1:] != self.ads[:-1]))

    def log_likelihood(self, std: Floats) -> float:
        """Return the log-likelihood of all clicks, with each ad's effect integrated out, of rows sorted by ad."""
        normals, weights = _gauss_hermite()
        logits = self.logits[:, None] + std[:, None] * normals
        signs = np.where(self.labels > 0, -1.0, 1.0)[:, None]
        by_ad = np.add.reduceat(-np.logaddexp(0.0, signs * logits), self.starts(), axis=0)
        most = by_ad.max(1, keepdims=True)
        return float((np.log(np.exp(by_ad - most) @ weights) + most[:, 0]).sum())


def fit_uncertainty(new: AdRows, known: AdRows, seed: int = 0) -> Uncertainty:
    """Fit on the same rows twice: `new`, scored without the ads' IDs and counts, and `known`, scored with them.

    Coverage is measured on each half of the ads with a fit on the other half.
    """
    order, rng = np.argsort(known.ads, kind="stable"), np.random.default_rng(seed)
    new, known = new.of(order), known.of(order)
    ads, number = np.unique(known.ads, return_inverse=True)
    is_second = (rng.permutation(len(ads)) % 2 == 1)[number]
    is_rare = known.impressions <= np.median(known.impressions)
    groups = {"new": (new, np.ones_like(is_rare)), "rare": (known, is_rare), "frequent": (known, ~is_rare)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in groups}
    for held in (is_second, ~is_second):
        fitted = _fit(new.of(~held), known.of(~held))
        for name, (rows, kept) in groups.items():
            found[name] += _held(rows.of(kept & held), fitted, rng)
    coverage = {name: _coverage(ads) for name, ads in found.items() if ads}
    return _fit(new, known).model_copy(update={"coverage": coverage})


def _fit(*views: AdRows) -> Uncertainty:
    def loss(log_new: float) -> float:
        tried = Uncertainty(new=np.exp(log_new))
        return float((log_new - _USUAL) ** 2 / 2) - sum(rows.log_likelihood(rows.std(tried)) for rows in views)

    best = minimize_scalar(loss, bounds=_BOUNDS, method="bounded", options={"xatol": 0.01})
    return Uncertainty(new=float(np.exp(best.x)))


def _held(rows: AdRows, uncertainty: Uncertainty, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return place and median deviation of each held-out ad with at least 5 rows, of rows sorted by ad."""
    found = []
    for own in np.split(np.arange(len(rows.ads)), rows.starts()[1:]):
        if len(own) >= _LEAST_ROWS:
            ad = rows.of(own[:_ROWS_PER_AD])
            std = ad.std(uncertainty)
            found.append((_place(ad, std, rng.random()), float(np.median(std))))
    return found


def _coverage(ads: list[tuple[float, float]]) -> Coverage:
    place, std = np.array(ads).T
    return Coverage(
        items=len(ads),
        within_50=float((np.abs(place - 0.5) < 0.25).mean()),
        within_90=float((np.abs(place - 0.5) < 0.45).mean()),
        median_std=float(np.median(std)),
    )


def _place(ad: AdRows, std: Floats, drawn: float) -> float:
    """Return the position of an ad's click count in its predicted distribution, uniform if that is right (randomised
    probability integral transform; Czado, Gneiting and Held 2009). The count is a sum of unequal draws, mixed over the
    ad's effect."""
    normals, weights = _gauss_hermite()
    rates = sigmoid(ad.logits[:, None] + std[:, None] * normals)
    counts = np.zeros((len(rates) + 1, len(normals)))
    counts[0] = 1.0
    for number, rate in enumerate(rates, start=1):
        counts[1 : number + 1] = counts[1 : number + 1] * (1 - rate) + counts[:number] * rate
        counts[0] *= 1 - rate
    chance, clicks = counts @ weights, int(ad.labels.sum())
    return float(chance[:clicks].sum() + drawn * chance[clicks])


@cache
def _gauss_hermite() -> tuple[Floats, Floats]:
    """Return standard normals [31] and their weights [31] in an expectation."""
    normals, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
    return normals, weights / weights.sum()
