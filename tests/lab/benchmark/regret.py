"""Simulates what a prior knows of new ads: clicks lost by Thompson sampling, from recorded click rates.

`python -m tests.lab.benchmark.regret DATA WORK` prints the table of docs/exploration.md. DATA is the folder of `msd
data ml-100k`, WORK that of `msd lab benchmark ml-100k-cold`, whose model `ours-0` it scores hidden films with.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.benchmark.cold import hide_items
from lab.benchmark.vectors import NOBODY
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.evaluation.degradation import described, encoded
from msd.ranker.features import Features, build_features
from msd.ranker.uncertainty import AdRows, fit_uncertainty
from msd.student.vectors import load_vectors
from msd.training.folder import load_ranker
from msd.training.train import predict

Floats = NDArray[np.float64]
_LEAST_ROWS = 50
_AT_ONCE, _IMPRESSIONS, _RUNS = 20, 5_000, 300
_AFTER = (50, 200, 1_000, 5_000)


class Prior(NamedTuple):
    """Beta distributions of ads' click rates [A]."""

    clicks: Floats
    others: Floats

    @classmethod
    def of(cls, logits: Floats, std: float) -> "Prior":
        """Return those with the mean and variance of normal log-odds around `logits` [A]."""
        rates = 1 / (1 + np.exp(-logits[:, None] - std * np.random.default_rng(1).standard_normal(2_000)))
        mean = rates.mean(1)
        strength = mean * (1 - mean) / rates.var(1) - 1
        return cls(mean * strength, (1 - mean) * strength)


def lost_clicks(
    prior: Prior, rates: Floats, *, runs: int, at_once: int, after: tuple[int, ...], greedy: bool = False, seed: int = 0
) -> Floats:
    """Return the clicks lost against the best ad [len(after), runs], of `at_once` ads drawn at random in each run.

    `greedy`: show the ad with the best mean so far instead of drawing.
    """
    rng = np.random.default_rng(seed)
    ads = np.stack([rng.permutation(len(rates))[:at_once] for _ in range(runs)])
    chance, clicks, others = rates[ads], prior.clicks[ads], prior.others[ads]
    best, lost, run, found = chance.max(1), np.zeros(runs), np.arange(runs), []
    for impression in range(1, max(after) + 1):
        value = clicks / (clicks + others) if greedy else rng.beta(clicks, others)
        shown = value.argmax(1)
        clicked = rng.random(runs) < chance[run, shown]
        clicks[run, shown] += clicked
        others[run, shown] += ~clicked
        lost += best - chance[run, shown]
        if impression in after:
            found.append(lost.copy())
    return np.array(found)


def main(data: Path, work: Path) -> None:
    """Print the table as JSON: means and the half widths of their 95 % intervals."""
    dataset = hide_items(load_dataset(data), 0)
    model, record = load_ranker(work / "ml-100k-cold/models/ours-0")
    vectors = replace(load_vectors(work / "ml-100k-cold/student"), users=NOBODY)
    features = build_features(dataset, record.feature_schema, vectors)
    test = features.of_part(Part.TEST)
    labels, _ = features.outcomes(test)
    films = features.item.rows.numpy()[test].astype(np.int64)
    kept = [film for film, rows in zip(*np.unique(films, return_counts=True), strict=True) if rows >= _LEAST_ROWS]
    rates = np.array([labels[films == film].mean() for film in kept])
    priors = {"uniform": Prior(np.ones(len(kept)), np.ones(len(kept)))}
    valid = features.of_part(Part.VALID)
    base = float(features.outcomes(valid)[0].mean())
    for name, view in {"words": encoded(features), "features": described(features), "none": None}.items():
        told = [np.full(len(rows), base) if view is None else predict(model, view, rows) for rows in (valid, test)]
        fitted = _spread(features, valid, _log_odds(told[0]))
        means = np.array([told[1][films == film].mean() for film in kept])
        priors[name] = Prior.of(_log_odds(means), fitted)
    found = {}
    for name, prior in priors.items():
        for greedy in (False, True):
            lost = lost_clicks(prior, rates, runs=_RUNS, at_once=_AT_ONCE, after=_AFTER, greedy=greedy, seed=1)
            halves = 1.96 * lost.std(1) / np.sqrt(_RUNS)
            found[f"{'greedy' if greedy else 'thompson'} {name}"] = list(zip(lost.mean(1), halves, strict=True))
    sys.stdout.write(json.dumps({"ads": len(kept), "after": _AFTER, "lost": found}, indent=1) + "\n")


def _spread(features: Features, events: NDArray[np.int64], logits: Floats) -> float:
    labels, _ = features.outcomes(events)
    rows = AdRows(logits, np.zeros(len(events)), labels, features.item.rows.numpy()[events].astype(np.int64))
    fitted = fit_uncertainty(rows, rows)
    return float(np.hypot(fitted.new, fitted.floor))


def _log_odds(rates: Floats) -> Floats:
    odds: Floats = np.log(rates) - np.log1p(-rates)
    return odds


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
