"""Are whole numbers codes? A probe of both readings on held-out rows: by bins, in which near values share a click rate,
and by value."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.afterwards import Shown
from msd.dataset.log.guess import Guess, as_codes

_MOST_ROWS = 200_000  # the latest
_FITTED = 0.8  # of the rows, in time
_BINS = 16
_STRENGTH = 20.0  # impressions by which a rate is smoothed
_LIKELY = 1.0  # standard errors: a code read as a number loses more than a number read as a code
_FEWEST_CLICKS = 50  # held out


def probed(guessed: Guess, per_event: pl.Series, shown: Shown, at: pl.Series) -> Guess:
    """Return a number's guess as that of a code, if its values predict held-out clicks better than its order
    does. `per_event`: its values [n] by event. Both losses are in the reason.

    Nothing is probed where most items or users have a value of their own, which names them whatever it is.
    """
    present = guessed.values.drop_nulls()
    if guessed.kind != "numeric" or present.n_unique() > present.len() / 2 or not bool((present % 1 == 0).all()):
        return guessed
    rows = at.arg_sort()[-_MOST_ROWS:]
    values = per_event.gather(rows).to_numpy()
    impressions, clicks = (one.gather(rows).cast(pl.Float64).to_numpy() for one in (shown.impressions, shown.clicks))
    cut = int(_FITTED * len(values))
    if clicks[cut:].sum() < _FEWEST_CLICKS:
        return guessed
    known = values[:cut][~np.isnan(values[:cut])]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else known
    binned = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, "right"))
    by_bin = _losses(binned, impressions, clicks, cut)
    by_value = _losses(np.unique(values, return_inverse=True)[1], impressions, clicks, cut)
    shown_n = impressions[cut:].sum()
    told = f"held-out logloss {by_value.sum() / shown_n:.4f} by value, {by_bin.sum() / shown_n:.4f} by order"
    gain = by_bin - by_value
    if gain.mean() > _LIKELY * gain.std() / np.sqrt(len(gain)):
        return as_codes(guessed, told)
    return replace(guessed, reason=f"{guessed.reason}; {told}")


def _losses(
    groups: NDArray[np.int64], impressions: NDArray[np.float64], clicks: NDArray[np.float64], cut: int
) -> NDArray[np.float64]:
    """Return the losses of the rows from `cut` on, by the smoothed click rates of their groups before it; a group that
    is new there has the overall rate."""
    size, base = int(groups.max()) + 1, clicks[:cut].sum() / impressions[:cut].sum()
    seen, clicked = (np.bincount(groups[:cut], of[:cut], size) for of in (impressions, clicks))
    rate = np.clip((clicked + _STRENGTH * base) / (seen + _STRENGTH), 1e-6, 1 - 1e-6)[groups[cut:]]
    losses: NDArray[np.float64] = -(clicks[cut:] * np.log(rate) + (impressions[cut:] - clicks[cut:]) * np.log(1 - rate))
    return losses
