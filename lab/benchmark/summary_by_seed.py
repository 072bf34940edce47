"""A benchmark's figures if each seed hides its own items: seeds are averaged and paired.

Two kinds of new items are measured, each with what is available for it: those that the teacher wrote about beforehand,
and those with only a text. The two are never in one table.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from lab.benchmark.protocol import Protocol
from lab.benchmark.run import Results
from lab.benchmark.summary import deviation
from lab.benchmark.variant import ENCODED, OURS, PLAIN, Variant
from msd.metrics import measure_pooled, roc_auc

TEST = "corrected resampled t-test over seeds (Nadeau and Bengio 2003), two-sided"
Figures = dict[str, Any]
Kind = Literal["taught", "untaught"]
_ON = {"taught": OURS, "untaught": ENCODED}


def summarise_by_seed(protocol: Protocol, results: Results) -> Figures:
    """Return all figures of the JSON that come from predictions; `untaught` has the same figures of the other kind.

    AUC is pooled over a seed's rows, then averaged.
    """
    figures = _kind(protocol, results, "taught")
    if results.found.get(ENCODED):
        figures["untaught"] = _kind(protocol, results, "untaught")
    return figures


def _kind(protocol: Protocol, results: Results, kind: Kind) -> Figures:
    ours = _ON[kind]
    chosen = [one for one in protocol.variants if getattr(one, kind)]
    aucs = {one.name: _aucs(results, one) for one in chosen}
    pooled = [measure_pooled(results.rows[seed].labels, one.test) for seed, one in sorted(results.found[ours].items())]
    mean = {metric: float(np.mean([one[metric] for one in pooled])) for metric in pooled[0]}
    share = protocol.hidden or 0.0
    entries = {
        role: {one.name: _entry(aucs[ours], aucs[one.name], share) for one in chosen if one.role == role}
        for role in ("baseline", "ablation")
    }
    best = max(entries["baseline"], key=lambda name: float(entries["baseline"][name]["auc"]))
    gain = entries["baseline"][PLAIN]
    return {
        "model": ours,
        "auc_mean": mean["auc"],
        "auc_std": deviation(list(aucs[ours].values())),
        "auc_without_semantics": gain["auc"],
        "gain_auc": gain["gain"],
        "gain_auc_ci95": gain["gain_ci95"],
        "gain_p": gain["gain_p"],
        "gain_test": TEST,
        "best_baseline": best,
        "gain_auc_over_best_baseline": entries["baseline"][best]["gain"],
        **{f"{metric}_mean" if metric == "logloss" else metric: mean[metric] for metric in _OTHERS},
        "baselines": entries["baseline"],
        "ablations": entries["ablation"],
    }


_OTHERS = ("logloss", "ece", "predicted_over_observed")


def _aucs(results: Results, variant: Variant) -> dict[int, float]:
    found = results.found[variant.name]
    return {seed: roc_auc(results.rows[seed].labels, one.test) for seed, one in found.items()}


def _entry(ours: dict[int, float], theirs: dict[int, float], share: float) -> Figures:
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    values = list(theirs.values())
    return {
        "auc": float(np.mean(values)),
        "auc_std": deviation(values),
        "gain": float(np.mean(gaps)),
        **{f"gain_{name}": value for name, value in resampled_t(gaps, share).items()},
        "seeds": len(values),
    }


def resampled_t(gaps: Sequence[float], share: float) -> Figures:
    """Return the 95 % interval and two-sided p of the mean of paired differences over J seeds, each testing on a new
    draw of a `share` of the same items; both None for one seed, or if all differences are equal.

    Seeds share most training data, so their differences vary less than those of new data would: Student's t with the
    variance times 1/J + share/(1 − share) instead of 1/J (Nadeau and Bengio 2003).
    """
    held = np.asarray(gaps, np.float64)
    count = len(held)
    if count < 2 or not (spread := float(held.std(ddof=1))):
        return {"ci95": None, "p": None}
    error = spread * np.sqrt(1 / count + share / (1 - share))
    t, mean = stats.t(count - 1), float(held.mean())
    wide = float(t.ppf(0.975)) * error
    return {"ci95": (mean - wide, mean + wide), "p": float(2 * t.sf(abs(mean / error)))}
