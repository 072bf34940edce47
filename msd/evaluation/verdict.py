"""Verdict on semantics as served: the same network with and without the student's vectors, paired."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import compare, compare_by_seed, resample_metrics
from msd.metrics import Labels, Probabilities, Weights, measure_pooled


class ServedScores(NamedTuple):
    """Probabilities [K, n] of one model's K seeds on the test rows with live counts, and whether it reads vectors."""

    name: str
    network: str
    seeds: tuple[int, ...]
    semantics: bool
    live: Probabilities


def judge_semantics(
    served: Sequence[ServedScores],
    labels: Labels,
    users: NDArray[np.int64],
    resamples: int,
    seed: int,
    weights: Weights | None = None,
) -> dict[str, Any] | None:
    """Return the AUC gain of the first model with vectors over the first of the same network without, its 95 % interval
    over users (and seeds, if both have the same, more than one), and whether it is sure; None without such a pair."""
    pairs = [
        (one, other)
        for one in served
        for other in served
        if one.semantics and not other.semantics and one.network == other.network
    ]
    if not pairs:
        return None
    one, other = pairs[0]
    drawn = resample_metrics(labels, np.concatenate([one.live, other.live]), users, resamples, seed, weights).auc
    ours, theirs = np.split(drawn, [len(one.live)])
    by_seed = len(one.seeds) > 1 and one.seeds == other.seeds
    sureness = compare_by_seed(ours, theirs) if by_seed else compare(ours, theirs)
    auc = [
        float(np.mean([measure_pooled(labels, row, weights)["auc"] for row in model.live])) for model in (one, other)
    ]
    found = {"model": one.name, "minus": other.name, "auc": auc, "gain": auc[0] - auc[1], **sureness}
    unit = "users and seeds" if by_seed else "users"
    return {**found, "unit": unit, "sure": bool(sureness["ci95"] and sureness["ci95"][0] > 0)}


def say(verdict: dict[str, Any]) -> str:
    """Return the verdict in one sentence, with the command that exports the model to serve, if known."""
    ends, command = verdict["ci95"], f": {verdict['command']}" if "command" in verdict else ""
    gain = f"{verdict['gain']:+.4f} AUC with live counts"
    gain += f" (95 % over {verdict['unit']}: {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else " (no interval)"
    if verdict["sure"]:
        return f"semantics: sure gain of {gain}: serve {verdict['model']}{command}"
    sure_loss = ends and ends[1] < 0
    return f"semantics: {'sure loss' if sure_loss else 'no sure gain'}, {gain}: serve {verdict['minus']}{command}"
