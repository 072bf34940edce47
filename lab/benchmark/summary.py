"""A benchmark's figures if all seeds share the test rows: means over seeds, differences over users and seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.benchmark.predictions import Floats, TestRows
from lab.benchmark.protocol import Protocol
from lab.benchmark.run import Results
from lab.benchmark.variant import OURS, PLAIN, UNTUNED
from msd.bootstrap import compare_by_seed, resample_metrics
from msd.metrics import measure, roc_auc

_METRICS = ("auc", "uauc", "logloss", "ece", "predicted_over_observed")
TEST = "paired bootstrap over users and seeds together, {resamples} resamples, two-sided"
Figures = dict[str, Any]


class BenchmarkMetrics:
    """All variants on the same test rows: the metrics of each, and the confidence in the difference of any two."""

    def __init__(self, results: Results, resamples: int) -> None:
        self.rows: TestRows = next(iter(results.rows.values()))
        self.found = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in results.found.items()}
        every = np.ones(len(self.rows.warm), bool)
        self._where = {"all": every, "live": every, "warm": self.rows.warm, "cold": ~self.rows.warm}
        self._resamples = resamples
        self._resampled: dict[tuple[str, str], Floats] = {}

    def mean(self, name: str) -> Figures:
        """Return each metric of a variant on all test rows, averaged over seeds."""
        by_seed = [measure(self.rows.labels, one.test, self.rows.users) for one in self.found[name]]
        return {metric: _mean([one[metric] for one in by_seed]) for metric in _METRICS}

    def auc(self, name: str, where: str = "all") -> list[float] | None:
        """Return the AUC by seed on some of the rows, or on all with live counts (`live`); None if the rows lack one of
        the labels."""
        rows = self._where[where]
        labels = self.rows.labels[rows]
        if not 0 < labels.sum() < len(labels):
            return None
        return [roc_auc(labels, one) for one in self._said(name, where)]

    def _said(self, name: str, where: str) -> Floats:
        """Return the probabilities [K, n] of a variant's seeds."""
        held = [one.live if where == "live" else one.test for one in self.found[name]]
        return np.stack(held)[:, self._where[where]]

    def gain(self, name: str, other: str, where: str = "all") -> Figures:
        """Return the AUC of one variant minus that of another over the seeds that both have, with its 95 % interval and
        two-sided p, for which users and seeds are resampled together; None if the rows lack one of the labels."""
        seeds = min(len(self.found[name]), len(self.found[other]))
        ours, theirs = self.auc(name, where), self.auc(other, where)
        if ours is None or theirs is None:
            return {"gain": None, "ci95": None, "p": None}
        sure = compare_by_seed(self._resample(name, where)[:seeds], self._resample(other, where)[:seeds])
        return {"gain": float(np.mean(ours[:seeds]) - np.mean(theirs[:seeds])), **sure}

    def _resample(self, name: str, where: str) -> Floats:
        """Return the AUC [K, R] of a variant's seeds over R resamples of users, the same for every variant."""
        if (name, where) not in self._resampled:
            rows = self._where[where]
            said = self._said(name, where)
            drawn = resample_metrics(self.rows.labels[rows], said, self.rows.users[rows], self._resamples)
            self._resampled[name, where] = drawn.auc
        return self._resampled[name, where]

    def ensemble(self, name: str) -> Figures:
        """Return AUC and UAUC of the seeds' mean probabilities."""
        together = np.mean([one.test for one in self.found[name]], axis=0)
        found = measure(self.rows.labels, together, self.rows.users)
        return {"auc": found["auc"], "uauc": found["uauc"], "seeds": len(self.found[name])}


def summarise(protocol: Protocol, results: Results, resamples: int) -> Figures:
    """Return all figures of the JSON that come from predictions; docs/benchmarks.md explains each."""
    measured = BenchmarkMetrics(results, resamples)
    ours, auc, live = measured.mean(OURS), measured.auc(OURS), _mean(measured.auc(OURS, "live") or [None])
    figures: Figures = {
        "model": OURS,
        "auc_mean": ours["auc"],
        "auc_std": deviation(auc or []),
        **{f"{metric}_mean": ours[metric] for metric in ("uauc", "logloss")},
        **{metric: ours[metric] for metric in ("ece", "predicted_over_observed")},
        "valid_auc_mean": _mean([one.valid_auc for one in measured.found[OURS]]),
    }
    for where, ending in (("all", ""), ("warm", "_warm"), ("cold", "_cold")):
        gain = measured.gain(OURS, PLAIN, where)
        figures |= {f"gain_auc{ending}": gain["gain"], f"gain_auc{ending}_ci95": gain["ci95"]}
        if where == "all":
            figures |= {"gain_p": gain["p"], "gain_test": TEST.format(resamples=resamples)}
        else:
            figures[f"auc{ending}"] = _mean(measured.auc(OURS, where) or [None])
    figures |= {"auc_live_counts": live, "auc_live_counts_gain": None if live is None else live - ours["auc"]}
    for role in ("baseline", "ablation"):
        names = [one.name for one in protocol.variants if one.role == role]
        figures[f"{role}s"] = {name: _entry(measured, name) for name in names}
    return {**figures, "ensemble": measured.ensemble(OURS)}


def _entry(measured: BenchmarkMetrics, name: str) -> Figures:
    """Return one line of a table. `gain`: of ours over it; `untuned_gain`: of ours before tuning, which differs from an
    ablation only in what that is named after."""
    figures = measured.mean(name)
    gains = {"gain": OURS, **({"untuned_gain": UNTUNED} if UNTUNED in measured.found and name != UNTUNED else {})}
    for key, better in gains.items():
        for where, ending in (("all", ""), ("cold", "_cold"), ("live", "_live")):
            gain = measured.gain(better, name, where)
            figures |= {
                f"{key}{ending}": gain["gain"],
                f"{key}{ending}_ci95": gain["ci95"],
                f"{key}{ending}_p": gain["p"],
            }
    return {
        "auc": figures.pop("auc"),
        "auc_std": deviation(measured.auc(name) or []),
        **{f"auc_{where}": _mean(measured.auc(name, where) or [None]) for where in ("warm", "cold")},
        "auc_live_counts": _mean(measured.auc(name, "live") or [None]),
        "valid_auc": _mean([one.valid_auc for one in measured.found[name]]),
        **figures,
        "seeds": len(measured.found[name]),
    }


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, np.float64)))
