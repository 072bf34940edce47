"""A benchmark's figures where each seed has test rows of its own: seeds are what is averaged and what is paired."""

from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score

from msd.benchmark.protocol import Protocol
from msd.benchmark.run import Results
from msd.benchmark.summary import deviation
from msd.benchmark.variant import OURS, PLAIN
from msd.ranker.metrics import measure_pooled

TEST = "paired t-test over seeds, two-sided"
Figures = dict[str, Any]


def summarise_by_seed(protocol: Protocol, results: Results) -> Figures:
    """Everything in the JSON that comes from the predictions. AUC is pooled over a seed's rows, then averaged."""
    aucs = {
        name: {seed: float(roc_auc_score(results.rows[seed].labels, one.test)) for seed, one in by_seed.items()}
        for name, by_seed in results.found.items()
    }
    ours = [measure_pooled(results.rows[seed].labels, one.test) for seed, one in sorted(results.found[OURS].items())]
    mean = {metric: float(np.mean([one[metric] for one in ours])) for metric in ours[0]}
    gain = paired(aucs[OURS], aucs[PLAIN])
    entries = {
        role: {one.name: _entry(aucs[OURS], aucs[one.name]) for one in protocol.variants if one.role == role}
        for role in ("baseline", "ablation")
    }
    best = max(entries["baseline"], key=lambda name: float(entries["baseline"][name]["auc"]))
    return {
        "auc_mean": mean["auc"],
        "auc_std": deviation(list(aucs[OURS].values())),
        "auc_without_semantics": entries["baseline"][PLAIN]["auc"],
        "gain_auc": gain["gain"],
        "gain_auc_ci95": gain["ci95"],
        "gain_p": gain["p"],
        "gain_test": TEST,
        "best_baseline": best,
        "gain_auc_over_best_baseline": entries["baseline"][best]["gain"],
        **{f"{metric}_mean" if metric == "logloss" else metric: mean[metric] for metric in _OTHERS},
        "baselines": entries["baseline"],
        "ablations": entries["ablation"],
    }


_OTHERS = ("logloss", "ece", "predicted_over_observed")


def _entry(ours: dict[int, float], theirs: dict[int, float]) -> Figures:
    gain = paired(ours, theirs)
    values = list(theirs.values())
    return {
        "auc": float(np.mean(values)),
        "auc_std": deviation(values),
        **{"gain": gain["gain"], "gain_ci95": gain["ci95"], "gain_p": gain["p"]},
        "seeds": len(values),
    }


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Figures:
    """The mean difference over the seeds of both, its 95 % interval and p by Student's t; neither for one seed."""
    gaps = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    mean = float(gaps.mean())
    if len(gaps) < 2 or not (error := float(gaps.std(ddof=1)) / np.sqrt(len(gaps))):
        return {"gain": mean, "ci95": None, "p": None}
    t = stats.t(len(gaps) - 1)
    wide = float(t.ppf(0.975)) * error
    return {"gain": mean, "ci95": (mean - wide, mean + wide), "p": float(2 * t.sf(abs(mean / error)))}
