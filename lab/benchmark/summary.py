"""A benchmark's figures from predictions: means over seeds, and differences with their confidence.

If all seeds share the measured rows, differences are resampled over users and seeds. If each seed hides its own items,
seeds are paired. docs/protocols.md explains each figure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from lab.benchmark.given import Floats
from lab.benchmark.predictions import REQUEST_S, MeasuredRows
from lab.benchmark.protocol import Protocol
from lab.benchmark.run import FROZEN, LIVE, Results
from lab.benchmark.variant import ENCODED, OURS
from msd.bootstrap import compare_by_seed, draw_weights, resample_metrics
from msd.metrics import groups_of, measure_pooled, roc_auc

_BOOTSTRAP = "paired bootstrap over users and seeds together, {resamples} resamples"
_T_TEST = "corrected resampled t-test over seeds (Nadeau and Bengio 2003)"
Figures = dict[str, Any]
Kind = Literal["taught", "untaught"]
_MODELS: dict[Kind, str] = {"taught": OURS, "untaught": ENCODED}
_PROBABILITIES = ("logloss", "ece", "predicted_over_observed")


def summarise(protocol: Protocol, results: Results, resamples: int) -> Figures:
    """Return the figures of the JSON that come from predictions: by view, one line per variant.

    If each seed hides its own items, the views are the kinds of new items: those with only a text are `untaught`, the
    others are those that the teacher wrote about beforehand.
    """
    views: dict[str, Figures] = {}
    if protocol.hidden is not None:
        test = _T_TEST
        for kind, ours in _MODELS.items():
            if ours in results.found:
                views[kind] = {"model": ours, "lines": _of_own_rows(protocol, results, protocol.hidden, kind)}
    else:
        test, measured = _BOOTSTRAP.format(resamples=resamples), BenchmarkMetrics(results, resamples)
        for view in measured.views:
            views[view] = {"model": OURS, "lines": {name: measured.line(name, view) for name in results.found}}
    return {"gain_test": test, "views": views}


class BenchmarkMetrics:
    """All variants on the same rows: the metrics of each, and the confidence in the difference of any two.

    Metrics: `auc`; `uauc`, the mean AUC of users; `request_auc`, of requests, weighted by rows, where feedback takes
    longer than a request.
    """

    def __init__(self, results: Results, resamples: int) -> None:
        rows = self.rows = next(iter(results.rows.values()))
        self.found = results.found
        self.views = list(
            dict.fromkeys(view for seeds in self.found.values() for found in seeds.values() for view in found)
        )
        self._grouped = {"uauc": _Groups(rows, rows.users), "request_auc": _Groups(rows, rows.requests)}
        self._resamples = resamples
        self._resampled: dict[tuple[str, str, str], Floats] = {}

    def line(self, name: str, view: str) -> Figures:
        """Return the figures of a variant; `gains`: of ours over another, by metric."""
        pooled = [measure_pooled(self.rows.labels, one) for one in self.probabilities(name, view)]
        metrics = self._metrics(view)
        by_seed = {metric: self.by_seed(name, view, metric) for metric in metrics}
        return {
            **{metric: _mean(values) for metric, values in by_seed.items()},
            "auc_std": deviation(by_seed["auc"] or []),
            **{metric: _mean([one[metric] for one in pooled]) for metric in _PROBABILITIES},
            "seeds": len(pooled),
            "gains": {metric: self.gain(OURS, name, view, metric) for metric in metrics if name != OURS},
        }

    def by_seed(self, name: str, view: str, metric: str) -> list[float] | None:
        """Return a metric by seed; None without a group that has both labels."""
        if metric in self._grouped:
            return self._grouped[metric].aucs(self.probabilities(name, view))
        return [roc_auc(self.rows.labels, one) for one in self.probabilities(name, view)]

    def gain(self, name: str, other: str, view: str, metric: str = "auc") -> Figures:
        """Return a metric of one variant minus that of another over the seeds that both have, with its 95 % interval,
        for which users and seeds are resampled together; None without a value of both."""
        ours, theirs = (self.by_seed(one, view, metric) if self.has(one, view) else None for one in (name, other))
        if not ours or not theirs:
            return {"gain": None, "ci95": None}
        seeds = min(len(ours), len(theirs))
        drawn = [self._resample(one, view, metric)[:seeds] for one in (name, other)]
        gain = float(np.mean(ours[:seeds]) - np.mean(theirs[:seeds]))
        return {"gain": gain, "ci95": compare_by_seed(drawn[0], drawn[1])["ci95"]}

    def _metrics(self, view: str) -> list[str]:
        delay_s = int(view.removeprefix(f"{LIVE}_").removesuffix("_s")) if view.startswith(LIVE) else 0
        return ["auc", *(name for name in self._grouped if name != "request_auc" or delay_s >= REQUEST_S)]

    def has(self, name: str, view: str) -> bool:
        """Return whether a variant has the view."""
        return any(view in found for found in self.found.get(name, {}).values())

    def probabilities(self, name: str, view: str) -> Floats:
        """Return the probabilities [K, n] of a variant's seeds."""
        return np.stack([found[view] for _, found in sorted(self.found[name].items())])

    def _resample(self, name: str, view: str, metric: str) -> Floats:
        """Return a metric [K, R] of a variant's seeds over R resamples of users, the same for every variant."""
        key = name, view, metric
        if key not in self._resampled:
            probabilities = self.probabilities(name, view)
            if metric in self._grouped:
                self._resampled[key] = self._grouped[metric].resample(probabilities, self._resamples)
            else:
                drawn = resample_metrics(self.rows.labels, probabilities, self.rows.users, self._resamples)
                self._resampled[key] = drawn.auc
        return self._resampled[key]


class _Groups:
    """Groups of rows that have both labels, each of one user; a group of users' rows counts once, one of a request's as
    often as it has rows."""

    def __init__(self, rows: MeasuredRows, keys: NDArray[np.int64]) -> None:
        self._labels = rows.labels
        self._groups = [group for group in groups_of(keys) if 0 < rows.labels[group].sum() < len(group)]
        self._users = np.array([rows.users[group[0]] for group in self._groups], np.int64)
        counts_once = keys is rows.users
        self._weights = np.array([1.0 if counts_once else len(group) for group in self._groups])

    def aucs(self, probabilities: Floats) -> list[float] | None:
        """Return the mean AUC of the groups by seed, from probabilities [K, n]; None without groups."""
        if not self._groups:
            return None
        return [float(np.average(self._by_group(one), weights=self._weights)) for one in probabilities]

    def resample(self, probabilities: Floats, resamples: int) -> Floats:
        """Return the same over resamples of users [K, R]."""
        by_group = np.stack([self._by_group(one) for one in probabilities])
        drawn = [weights * self._weights for weights in draw_weights(self._users, resamples, 0)]
        return np.concatenate([by_group @ weights.T / weights.sum(1) for weights in drawn], axis=1)

    def _by_group(self, probabilities: Floats) -> Floats:
        return np.array([roc_auc(self._labels[group], probabilities[group]) for group in self._groups])


def _of_own_rows(protocol: Protocol, results: Results, hidden: float, kind: Kind) -> Figures:
    """Return the lines of one kind of new items: AUC is pooled over a seed's rows, then averaged."""
    ours, lines, aucs = _MODELS[kind], {}, {}
    for variant in protocol.variants:
        name = variant.name
        if name not in results.found or not getattr(variant, kind):
            continue
        found = results.found[name].items()
        by_seed = {seed: measure_pooled(results.rows[seed].labels, views[FROZEN]) for seed, views in found}
        aucs[name] = {seed: pooled["auc"] for seed, pooled in by_seed.items()}
        lines[name] = {
            **{metric: _mean([pooled[metric] for pooled in by_seed.values()]) for metric in ("auc", *_PROBABILITIES)},
            "auc_std": deviation(list(aucs[name].values())),
            "seeds": len(by_seed),
        }
    gains = {name: {"auc": _paired(aucs[ours], aucs[name], hidden)} for name in lines if name != ours}
    return {name: {**line, "gains": gains.get(name, {})} for name, line in lines.items()}


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float], hidden: float) -> Figures:
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    return {"gain": float(np.mean(gaps)), "ci95": resampled_t(gaps, hidden)}


def resampled_t(gaps: Sequence[float], share: float) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of paired differences over J seeds, each testing on a new draw of a `share`
    of the same items; None for one seed, or if all differences are equal.

    Seeds share most training data, so their differences vary less than those of new data would: Student's t with the
    variance times 1/J + share/(1 − share) instead of 1/J (Nadeau and Bengio 2003).
    """
    count, spread = len(gaps), deviation(gaps)
    if not spread:
        return None
    width = float(stats.t(count - 1).ppf(0.975) * spread * np.sqrt(1 / count + share / (1 - share)))
    mean = float(np.mean(gaps))
    return mean - width, mean + width


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[float] | None) -> float | None:
    return float(np.mean(values)) if values else None
