"""What the rows of a refused night do to the next bundle: left out, weighed, or used as any others.

The model is a logistic regression on ads and on pairs of a segment and an ad. Knows no real training.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from lab.nights.made_night import Floats, Ints, MadeNight

KINDS = ("bots", "fad", "drift")
"""Of refused nights; a drift is refused wrongly."""
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
PASTS = (20_000, 100_000)
"""Impressions of the dataset before the refused night."""
_DAY, _JUDGED = 8_000, 100_000


def run_refused(count: int, seed: int, hear: Callable[[str], None], pasts: Sequence[int] = PASTS) -> dict[str, Any]:
    """Return for each weight of a refused night's rows, by kind and past, the mean share of revenue more than if they
    are left out, with its standard error, over `count` nights (2 or more) of each kind."""
    found: list[dict[str, Any]] = []
    for past, kind in product(pasts, KINDS):
        hear(f"refused nights of {kind} after {past:,} impressions")
        gains = np.array([_gains(MadeNight(kind, 1_000 * seed + number, 0.1), past) for number in range(count)])
        errors = gains.std(0, ddof=1) / np.sqrt(count)
        of_weights = {
            str(weight): {"gain": float(gain), "error": float(error)}
            for weight, gain, error in zip(WEIGHTS, gains.mean(0), errors, strict=True)
        }
        found.append({"past": past, "kind": kind, "gains": of_weights})
    return {"nights": count, "seed": seed, "refused": found}


def _gains(night: MadeNight, past: int) -> list[float]:
    """Return the gain of revenue over leaving the night out, by weight: the bundle that is made a night later."""
    before = night.old if night.kind == "drift" else night.later
    refused = night.shown(night.law, _DAY)
    night.bots[:] = False  # they come in that night alone
    parts = (night.shown(before, past), refused, night.shown(night.later, _DAY))
    asked = night.requests(_JUDGED)
    earned = [night.revenue(_fitted(night, parts, (1.0, weight, 1.0)), asked) for weight in WEIGHTS]
    return [one / earned[0] - 1 for one in earned]


def _fitted(night: MadeNight, parts: Sequence[tuple[Ints, Ints, Any]], weights: Sequence[float]) -> Floats:
    """Return the log-odds [S, I] that a regression learns from segments, items and clicks of parts, with weights."""
    shape = (2, night.segments, night.items)
    counts = np.zeros(shape)
    for (segment, item, clicked), weight in zip(parts, weights, strict=True):
        np.add.at(counts, (clicked.astype(np.int64), segment, item), weight)
    cells = night.segments * night.items
    columns = np.hstack([np.tile(np.eye(night.items), (night.segments, 1)), np.eye(cells)])
    model = LogisticRegression(C=1.0, solver="newton-cholesky")
    model.fit(np.vstack([columns, columns]), np.repeat([0, 1], cells), sample_weight=counts.ravel())
    odds: Floats = model.decision_function(columns).reshape(shape[1:])
    return odds
