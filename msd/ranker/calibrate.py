"""Calibration learned from valid's clicks: Platt's slope and offset, or an isotonic curve of few knots."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from msd.ranker.metrics import calibration, expected_calibration_error, mean_logloss

Floats = NDArray[np.float64]
KNOTS = 32
_FOLDS = 5


def fit_platt(logits: Floats, labels: Floats) -> tuple[float, float]:
    """Slope and offset (Platt 1999) from [n] logits and labels; (1, 0) if there is but one label to learn from."""
    if labels.min() == labels.max():
        return 1.0, 0.0
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # A falling calibration would turn the ranking round; it can only come from a model that has learned nothing.
    return (slope, offset) if slope > 0 else (1.0, 0.0)


class Curve(NamedTuple):
    """A strictly increasing, piecewise linear map from logits to calibrated logits, through `knots` at `values`.

    Beyond the outermost knots it goes on with `outer_slope`, so that it never makes two different scores equal. With
    one knot it is a line, such as Platt's.
    """

    knots: Floats
    values: Floats
    outer_slope: float = 1.0

    def __call__(self, logits: Floats) -> Floats:
        """Calibrated logits [n] of logits [n]."""
        inside = np.clip(logits, self.knots[0], self.knots[-1])
        calibrated: Floats = np.interp(inside, self.knots, self.values) + self.outer_slope * (logits - inside)
        return calibrated


def fit_isotonic(logits: Floats, labels: Floats) -> Curve:
    """At most 32 knots from [n] logits and labels; the identity if there is but one label to learn from.

    Isotonic regression (Zadrozny and Elkan 2002), averaged over 32 equal shares of the rows; shares of one step become
    one knot at their middle, so that steps turn into slopes and the ranking stays.
    """
    if labels.min() == labels.max():
        return Curve(np.zeros(1), np.zeros(1))
    order = np.argsort(logits, kind="stable")
    rates = IsotonicRegression().fit_transform(logits[order], labels[order])
    shares = [share for share in np.array_split(np.arange(len(order)), KNOTS) if len(share)]
    sizes = np.array([len(share) for share in shares])
    # A share without any click, or of clicks alone, is only known to half a row.
    bound = 0.5 / sizes.max()
    rate = np.clip([rates[share].mean() for share in shares], bound, 1 - bound)
    middle = np.array([logits[order[share]].mean() for share in shares])
    steps = np.split(np.arange(len(shares)), np.flatnonzero(np.diff(rate) > 1e-9) + 1)
    knots, values = (np.array([np.average(of[step], weights=sizes[step]) for step in steps]) for of in (middle, rate))
    return Curve(knots, np.log(values / (1 - values)))


def choose_calibration(logits: Floats, labels: Floats) -> Curve:
    """Platt's line or the isotonic curve, fitted on [n] rows: whichever had the lower logloss on rows not seen."""
    measured = compare_calibrations(logits, labels)
    if measured and measured["isotonic"]["logloss"] < measured["platt"]["logloss"]:
        return fit_isotonic(logits, labels)
    slope, offset = fit_platt(logits, labels)
    return Curve(np.zeros(1), np.array([offset]), slope)


def compare_calibrations(logits: Floats, labels: Floats, seed: int = 0) -> dict[str, dict[str, float]]:
    """ECE and logloss of each way, and of none, on [n] rows, each predicted by what the other four fifths taught.

    Nothing for fewer rows than fifths.
    """
    if len(logits) < _FOLDS:
        return {}
    folds = np.random.default_rng(seed).permutation(len(logits)) % _FOLDS
    calibrated = {"none": logits, "platt": np.empty(len(logits)), "isotonic": np.empty(len(logits))}
    for fold in range(_FOLDS):
        held, rest = folds == fold, folds != fold
        slope, offset = fit_platt(logits[rest], labels[rest])
        calibrated["platt"][held] = slope * logits[held] + offset
        calibrated["isotonic"][held] = fit_isotonic(logits[rest], labels[rest])(logits[held])
    probabilities = {way: 1 / (1 + np.exp(-found)) for way, found in calibrated.items()}
    return {
        way: {
            "ece": expected_calibration_error(calibration(labels, found)),
            "logloss": mean_logloss(labels, found),
        }
        for way, found in probabilities.items()
    }
