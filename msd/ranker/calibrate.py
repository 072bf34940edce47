"""Blend weights and calibration, fitted on the valid clicks: Platt's slope and offset, or a curve of few knots.
`Calibrator` holds the curve inside a ranker's graph.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from msd.metrics import mean_logloss, sigmoid

Floats = NDArray[np.float64]
KNOTS = 32
_FOLDS = 5


class Curve(NamedTuple):
    """Strictly increasing, piecewise linear map from logits to calibrated logits, through `values` at `knots`.

    Beyond the outermost knots it continues with `outer_slope`, so that different scores stay different. With one knot
    it is a line, such as Platt's.
    """

    knots: Floats
    values: Floats
    outer_slope: float = 1.0

    def __call__(self, logits: Floats) -> Floats:
        """Calibrate logits [n]."""
        inside = np.clip(logits, self.knots[0], self.knots[-1])
        calibrated: Floats = np.interp(inside, self.knots, self.values) + self.outer_slope * (logits - inside)
        return calibrated

    def slope(self, logits: Floats) -> Floats:
        """Return by how much the calibrated logits [n] rise with the logits [n]."""
        within = np.diff(self.values) / np.diff(self.knots)
        slopes: Floats = np.concatenate([[self.outer_slope], within, [self.outer_slope]])
        return slopes[np.searchsorted(self.knots, logits)]


_IDENTITY = Curve(np.zeros(1), np.zeros(1))


def fit_platt(logits: Floats, labels: Floats, weights: Floats | None = None) -> Curve:
    """Return a line (Platt 1999) fitted on [n] logits and labels; the identity if all labels are equal.

    `weights`, here and below: impressions [n] that each row stands for; one by default.
    """
    if labels.min() == labels.max():
        return _IDENTITY
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], labels, weights)
    line = Curve(np.zeros(1), fitted.intercept_, float(fitted.coef_[0, 0]))
    # A negative slope would reverse the ranking; it occurs only if the model has learned nothing.
    return line if line.outer_slope > 0 else _IDENTITY


def fit_blend(experts: Floats, age: Floats, labels: Floats, weights: Floats | None = None) -> Floats:
    """Return non-negative weights [2, E] for the logits [E, n] of experts: where the counts' age [n] is 0, and where it
    is 1. Fitted by logistic regression of the labels (stacked generalisation; Wolpert 1992). Inputs with a negative
    weight are dropped, the most negative first."""
    opinions = np.concatenate([experts * (1 - age), experts * age])
    shares, kept = np.zeros(len(opinions)), np.flatnonzero(opinions.any(1))
    while len(kept):
        found = LogisticRegression(C=np.inf).fit(opinions[kept].T, labels, weights).coef_[0]
        if found.min() >= 0:
            shares[kept] = found
            break
        kept = np.delete(kept, found.argmin())
    fresh, old = np.split(shares, 2)
    # An age without valid rows or a positive weight uses the other age's weights; without either, the network alone.
    some = fresh if fresh.any() else old if old.any() else np.eye(len(experts))[0]
    return np.stack([one if one.any() else some for one in (fresh, old)])


def fit_isotonic(logits: Floats, labels: Floats, weights: Floats | None = None) -> Curve:
    """Return a curve of at most 32 knots, fitted on [n] logits and labels; the identity if all labels are equal.

    Isotonic regression (Zadrozny and Elkan 2002), averaged over 32 equal shares of the rows. Shares of one step become
    one knot at their middle: steps turn into slopes, and the ranking stays.
    """
    if labels.min() == labels.max():
        return _IDENTITY
    order = np.argsort(logits, kind="stable")
    weighed = (np.ones(len(order)) if weights is None else weights)[order]
    rates = IsotonicRegression().fit(logits[order], labels[order], weighed).transform(logits[order])
    shares = [share for share in np.array_split(np.arange(len(order)), KNOTS) if len(share)]
    sizes = np.array([weighed[share].sum() for share in shares])
    # Rates of 0 and 1 have no logit: they are moved by half an impression.
    bound = 0.5 / sizes.max()
    rate = np.clip([np.average(rates[share], weights=weighed[share]) for share in shares], bound, 1 - bound)
    middle = np.array([np.average(logits[order[share]], weights=weighed[share]) for share in shares])
    steps = np.split(np.arange(len(shares)), np.flatnonzero(np.diff(rate) > 1e-9) + 1)
    knots, values = (np.array([np.average(of[step], weights=sizes[step]) for step in steps]) for of in (middle, rate))
    return Curve(knots, np.log(values / (1 - values)))


def choose_calibration(logits: Floats, labels: Floats, weights: Floats | None = None) -> Curve:
    """Return Platt's line or the isotonic curve, fitted on [n] rows: the one with the lower logloss by 5-fold
    cross-validation, or the line for fewer than 5 rows."""
    if len(logits) < _FOLDS:
        return fit_platt(logits, labels, weights)
    folds = np.random.default_rng(0).permutation(len(logits)) % _FOLDS
    weighed = np.ones(len(logits)) if weights is None else weights

    def loss(fit: Callable[[Floats, Floats, Floats], Curve]) -> float:
        calibrated = np.empty(len(logits))
        for fold in range(_FOLDS):
            held, rest = folds == fold, folds != fold
            calibrated[held] = fit(logits[rest], labels[rest], weighed[rest])(logits[held])
        return mean_logloss(labels, sigmoid(calibrated), weighed)

    return (fit_isotonic if loss(fit_isotonic) < loss(fit_platt) else fit_platt)(logits, labels, weights)


def calibrate_delayed(logits: Floats, labels: Floats, arrived: Floats) -> Curve:
    """Return a calibration of [n] logits of conversions that are seen with probability `arrived` [n]: Platt's line, by
    maximum likelihood. If all have arrived, that of `choose_calibration`."""
    if arrived.min() == 1.0:
        return choose_calibration(logits, labels)

    def loss(line: Floats) -> float:
        return mean_logloss(labels, arrived * sigmoid(line[0] + line[1] * logits))

    offset, slope = minimize(loss, (0.0, 1.0)).x
    return Curve(np.zeros(1), np.array([offset]), float(slope)) if slope > 0 else _IDENTITY


class Calibrator(nn.Module):
    """Curve in buffers of fixed size, initially the identity. A curve of fewer knots repeats its last."""

    knots: Tensor
    values: Tensor
    outer_slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(KNOTS))
        self.register_buffer("values", torch.zeros(KNOTS))
        self.register_buffer("outer_slope", torch.ones(()))

    def set(self, curve: Curve) -> None:
        """Store a curve of at most 32 knots."""
        spare = KNOTS - len(curve.knots)
        self.knots.copy_(torch.from_numpy(np.pad(curve.knots, (0, spare), "edge")))
        self.values.copy_(torch.from_numpy(np.pad(curve.values, (0, spare), "edge")))
        self.outer_slope.fill_(curve.outer_slope)

    def curve(self) -> Curve:
        """Return the stored curve without repeated knots."""
        knots, first = np.unique(self.knots.double().cpu().numpy(), return_index=True)
        return Curve(knots, self.values.double().cpu().numpy()[first], float(self.outer_slope))

    def forward(self, logits_N: Tensor) -> Tensor:
        """Calibrate logits [N]: each segment adds its slope times the part of it below the logit."""
        starts_S, ends_S = self.knots[:-1], self.knots[1:]
        widths_S = ends_S - starts_S
        slopes_S = torch.where(widths_S > 0, (self.values[1:] - self.values[:-1]) / widths_S.clamp(min=1e-12), 0.0)
        # ReLU after the subtraction, not a clamp before it: in half precision, equal offsets need not cancel out.
        below_NS = torch.relu(torch.minimum(logits_N.unsqueeze(-1), ends_S) - starts_S)
        inside_N = torch.minimum(torch.maximum(logits_N, self.knots[0]), self.knots[-1])
        return self.values[0] + (below_NS * slopes_S).sum(-1) + self.outer_slope * (logits_N - inside_N)
