"""Platt scaling: the slope and offset of the logits that make valid's clicks most likely."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset (Platt 1999) from [n] logits and labels; (1, 0) if there is but one label to learn from."""
    if labels.min() == labels.max():
        return 1.0, 0.0
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # A falling calibration would turn the ranking round; it can only come from a model that has learned nothing.
    return (slope, offset) if slope > 0 else (1.0, 0.0)
