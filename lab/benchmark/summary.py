"""A benchmark's figures from predictions: means over seeds, and differences with their confidence.

If all seeds share the test rows, differences are resampled over users and seeds. If each seed hides its own items,
seeds are paired. docs/protocols.md explains each figure.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from lab.benchmark.predictions import Floats, MeasuredRows
from lab.benchmark.protocol import Protocol
from lab.benchmark.run import Results
from lab.benchmark.variant import ENCODED, OURS, PLAIN, Variant
from msd.bootstrap import compare_by_seed, resample_metrics
from msd.metrics import measure, measure_pooled, roc_auc

_METRICS = ("auc", "uauc", "logloss", "ece", "predicted_over_observed")
_BOOTSTRAP = "paired bootstrap over users and seeds together, {resamples} resamples, two-sided"
_T_TEST = "corrected resampled t-test over seeds (Nadeau and Bengio 2003), two-sided"
Figures = dict[str, Any]
Kind = Literal["taught", "untaught"]


def summarise(protocol: Protocol, results: Results, resamples: int) -> Figures:
    """Return all figures of the JSON that come from predictions.

    If each seed hides its own items, `untaught` has the figures of those with only a text, and the others are of those
    that the teacher wrote about beforehand: the two are never in one table.
    """
    if protocol.hidden is None:
        return _of_shared_rows(protocol, results, resamples)
    figures = _of_own_rows(protocol, results, protocol.hidden, "taught")
    if results.found.get(ENCODED):
        figures["untaught"] = _of_own_rows(protocol, results, protocol.hidden, "untaught")
    return figures


class BenchmarkMetrics:
    """All variants on the same test rows: the metrics of each, and the confidence in the difference of any two."""

    def __init__(self, results: Results, resamples: int) -> None:
        self.rows: MeasuredRows = next(iter(results.rows.values()))
        self.found = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in results.found.items()}
        every = np.ones(len(self.rows.warm), bool)
        self._where = {"all": every, "live": every, "warm": self.rows.warm, "cold": ~self.rows.warm}
        self._resamples = resamples
        self._resampled: dict[tuple[str, str], Floats] = {}

    def mean(self, name: str) -> Figures:
        """Return each metric of a variant on all test rows, averaged over seeds."""
        by_seed = [measure(self.rows.labels, found.test, self.rows.users) for found in self.found[name]]
        return {metric: _mean([metrics[metric] for metrics in by_seed]) for metric in _METRICS}

    def aucs(self, name: str, where: str = "all") -> list[float] | None:
        """Return the AUC by seed on some of the rows, or on all with live counts (`live`); None if the rows lack one of
        the labels."""
        labels = self.rows.labels[self._where[where]]
        if not 0 < labels.sum() < len(labels):
            return None
        return [roc_auc(labels, probabilities) for probabilities in self._probabilities(name, where)]

    def auc(self, name: str, where: str) -> float | None:
        """Return the mean AUC over seeds."""
        return _mean(self.aucs(name, where) or [None])

    def gain(self, name: str, other: str, where: str = "all") -> Figures:
        """Return the AUC of one variant minus that of another over the seeds that both have, with its 95 % interval and
        two-sided p, for which users and seeds are resampled together; None if the rows lack one of the labels."""
        seeds = min(len(self.found[name]), len(self.found[other]))
        ours, theirs = self.aucs(name, where), self.aucs(other, where)
        if ours is None or theirs is None:
            return {"gain": None, "ci95": None, "p": None}
        confidence = compare_by_seed(self._resample(name, where)[:seeds], self._resample(other, where)[:seeds])
        return {"gain": float(np.mean(ours[:seeds]) - np.mean(theirs[:seeds])), **confidence}

    def _probabilities(self, name: str, where: str) -> Floats:
        """Return the probabilities [K, n] of a variant's seeds."""
        by_seed = [found.live if where == "live" else found.test for found in self.found[name]]
        return np.stack(by_seed)[:, self._where[where]]

    def _resample(self, name: str, where: str) -> Floats:
        """Return the AUC [K, R] of a variant's seeds over R resamples of users, the same for every variant."""
        if (name, where) not in self._resampled:
            rows = self._where[where]
            probabilities = self._probabilities(name, where)
            drawn = resample_metrics(self.rows.labels[rows], probabilities, self.rows.users[rows], self._resamples)
            self._resampled[name, where] = drawn.auc
        return self._resampled[name, where]

    def ensemble(self, name: str) -> Figures:
        """Return AUC and UAUC of the seeds' mean probabilities."""
        together = np.mean([found.test for found in self.found[name]], axis=0)
        metrics = measure(self.rows.labels, together, self.rows.users)
        return {"auc": metrics["auc"], "uauc": metrics["uauc"], "seeds": len(self.found[name])}


def _of_shared_rows(protocol: Protocol, results: Results, resamples: int) -> Figures:
    measured = BenchmarkMetrics(results, resamples)
    ours, live = measured.mean(OURS), measured.auc(OURS, "live")
    figures: Figures = {
        "model": OURS,
        "auc_mean": ours["auc"],
        "auc_std": deviation(measured.aucs(OURS) or []),
        **{f"{metric}_mean": ours[metric] for metric in ("uauc", "logloss")},
        **{metric: ours[metric] for metric in ("ece", "predicted_over_observed")},
        "valid_auc_mean": _mean([found.valid_auc for found in measured.found[OURS]]),
        **{f"auc_{where}": measured.auc(OURS, where) for where in ("warm", "cold")},
        "auc_live_counts": live,
        "auc_live_counts_gain": None if live is None else live - ours["auc"],
        "gain_test": _BOOTSTRAP.format(resamples=resamples),
    }
    for where, ending in (("all", ""), ("warm", "_warm"), ("cold", "_cold")):
        gain = measured.gain(OURS, PLAIN, where)
        figures |= {f"gain_auc{ending}": gain["gain"], f"gain_auc{ending}_ci95": gain["ci95"]}
        if where == "all":
            figures["gain_p"] = gain["p"]
    for role in ("baseline", "ablation"):
        names = [variant.name for variant in protocol.variants if variant.role == role]
        figures[f"{role}s"] = {name: _line(measured, name) for name in names}
    return {**figures, "ensemble": measured.ensemble(OURS)}


def _line(measured: BenchmarkMetrics, name: str) -> Figures:
    """Return one line of a table. `gain`: of ours over it."""
    metrics = measured.mean(name)
    figures: Figures = {
        "auc": metrics.pop("auc"),
        "auc_std": deviation(measured.aucs(name) or []),
        **{f"auc_{where}": measured.auc(name, where) for where in ("warm", "cold")},
        "auc_live_counts": measured.auc(name, "live"),
        "valid_auc": _mean([found.valid_auc for found in measured.found[name]]),
        **metrics,
        "seeds": len(measured.found[name]),
    }
    for where, ending in (("all", ""), ("cold", "_cold"), ("live", "_live")):
        gain = measured.gain(OURS, name, where)
        figures[f"gain{ending}"] = gain["gain"]
        figures |= {f"gain{ending}_{part}": gain[part] for part in ("ci95", "p")}
    return figures


def _of_own_rows(protocol: Protocol, results: Results, hidden: float, kind: Kind) -> Figures:
    """Return the figures of one kind of new items: AUC is pooled over a seed's rows, then averaged."""
    ours = {"taught": OURS, "untaught": ENCODED}[kind]
    compared = [variant for variant in protocol.variants if getattr(variant, kind)]
    aucs = {variant.name: _aucs(results, variant) for variant in compared}
    pooled = [measure_pooled(results.rows[seed].labels, found.test) for seed, found in results.found[ours].items()]
    mean = {metric: float(np.mean([metrics[metric] for metrics in pooled])) for metric in pooled[0]}
    baselines, ablations = (
        {variant.name: _paired(aucs[ours], aucs[variant.name], hidden) for variant in compared if variant.role == role}
        for role in ("baseline", "ablation")
    )
    best = max(baselines, key=lambda name: float(baselines[name]["auc"]))
    return {
        "model": ours,
        "auc_mean": mean["auc"],
        "auc_std": deviation(list(aucs[ours].values())),
        "auc_without_semantics": baselines[PLAIN]["auc"],
        "gain_auc": baselines[PLAIN]["gain"],
        "gain_auc_ci95": baselines[PLAIN]["gain_ci95"],
        "gain_p": baselines[PLAIN]["gain_p"],
        "gain_test": _T_TEST,
        "best_baseline": best,
        "gain_auc_over_best_baseline": baselines[best]["gain"],
        "logloss_mean": mean["logloss"],
        "ece": mean["ece"],
        "predicted_over_observed": mean["predicted_over_observed"],
        "baselines": baselines,
        "ablations": ablations,
    }


def _aucs(results: Results, variant: Variant) -> dict[int, float]:
    found = results.found[variant.name]
    return {seed: roc_auc(results.rows[seed].labels, predictions.test) for seed, predictions in found.items()}


def _paired(ours: dict[int, float], theirs: dict[int, float], hidden: float) -> Figures:
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    values = list(theirs.values())
    return {
        "auc": float(np.mean(values)),
        "auc_std": deviation(values),
        "gain": float(np.mean(gaps)),
        **{f"gain_{name}": value for name, value in resampled_t(gaps, hidden).items()},
        "seeds": len(values),
    }


def resampled_t(gaps: Sequence[float], share: float) -> Figures:
    """Return the 95 % interval and two-sided p of the mean of paired differences over J seeds, each testing on a new
    draw of a `share` of the same items; both None for one seed, or if all differences are equal.

    Seeds share most training data, so their differences vary less than those of new data would: Student's t with the
    variance times 1/J + share/(1 − share) instead of 1/J (Nadeau and Bengio 2003).
    """
    count, spread = len(gaps), deviation(gaps)
    if not spread:
        return {"ci95": None, "p": None}
    error = spread * np.sqrt(1 / count + share / (1 - share))
    t, mean = stats.t(count - 1), float(np.mean(gaps))
    width = float(t.ppf(0.975)) * error
    return {"ci95": (mean - width, mean + width), "p": float(2 * t.sf(abs(mean / error)))}


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, np.float64)))
