"""Verdict on an evaluation in words: the model to use, and reasons to distrust the figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msd.metrics import FEWEST_USERS

Figures = Mapping[str, Any]
REGRESSION, COUNTS, ENCODER, TFIDF, TFIDF_WITHIN = "regression", "counts", "encoder", "tfidf", "tfidf_within"
BASELINES = (REGRESSION, COUNTS)
TEXT_BASELINES = (ENCODER, TFIDF, TFIDF_WITHIN)
_WORDS = {
    REGRESSION: "logistic regression on IDs and fields",
    COUNTS: "trees on counts",
    TFIDF: "TF-IDF with logistic regression",
    TFIDF_WITHIN: "TF-IDF with regression within users",
    ENCODER: "logistic regression on the student's vectors",
}
_TOO_GOOD, _APART = 0.98, 0.1
_FAR, _SHIFTED = 1.25, 1.5  # ratios of click rates
_ERRORS = 3  # standard errors within which a difference may be chance
_ABSURD = 1.2  # normalised entropy of a baseline; one of texts may exceed 1 where items are new
_ALONE, _MOST = 0.75, 0.8  # AUC of one feature, and its share of what the model gains over chance


def objections(results: Figures) -> list[str]:
    """Return what makes the figures of the first model doubtful, each with what to look at."""
    name, model = next(iter(results["models"].items()))
    metrics, test = model["metrics"], results["clicks"]["test"]
    found = []
    if metrics["normalised_entropy"] >= 1:
        found.append(
            f"{name} predicts worse than a constant: normalised entropy {metrics['normalised_entropy']:.3f}, at least "
            "1. Look at the calibration in the report, and at whether test rows are drawn as train rows are"
        )
    if _differs(metrics["predicted_over_observed"], _FAR, test["clicks"]):
        found.append(
            f"{name} predicts {metrics['predicted_over_observed']:.2f} × the clicks that were observed. Look at the "
            "click rate by day, and at columns that mean something else in later rows"
        )
    if model["valid_auc"] is not None:
        clicks = [results["clicks"][part]["clicks"] for part in ("valid", "test")]
        found += _of_valid(name, model["valid_auc"], metrics["auc"], clicks)
    rates = {part: one["clicks"] / one["impressions"] for part, one in results["clicks"].items()}
    low, high = (pick(rates, key=rates.__getitem__) for pick in (min, max))
    fewest = min(one["clicks"] for one in results["clicks"].values())
    if not rates[low] or _differs(rates[high] / rates[low], _SHIFTED, fewest):
        found.append(
            f"the click rate is {rates[low]:.2%} in {low} and {rates[high]:.2%} in {high} rows. Look at how rows "
            "without a click were sampled, and at whether the newest rows still wait for their clicks"
        )
    for feature, auc in results["alone"].items():
        if auc >= max(_ALONE, 0.5 + _MOST * (metrics["auc"] - 0.5)):
            found.append(
                f"the feature {feature} alone has AUC {auc:.3f}, most of the model's {metrics['auc']:.3f}. Look at "
                f"whether {feature} is known before the impression"
            )
    return found + list(_of_baselines(results["models"]))


def _of_valid(name: str, valid: float, test: float, clicks: Sequence[float]) -> Iterator[str]:
    if valid > _TOO_GOOD:
        yield (
            f"{name} has AUC {valid:.4f} on valid rows, too good to be true. Look for a column that is known only "
            "after the click, and at how rows without a click got their times"
        )
    # The variance of an AUC near 0.5, where clicks are few among many rows, is 1 / (12 × clicks).
    error = sum(1 / (12 * max(1.0, count)) for count in clicks) ** 0.5
    if abs(valid - test) > max(_APART, _ERRORS * error):
        yield (
            f"{name} has AUC {valid:.3f} on valid rows and {test:.3f} on test rows. Look at what changes between them: "
            "sampling, columns, the share of new items and users"
        )


def _of_baselines(models: Figures) -> Iterator[str]:
    for name, one in models.items():
        entropy = one["metrics"]["normalised_entropy"]
        if name in _WORDS and entropy >= _ABSURD:
            yield (
                f"{_WORDS[name]}: logloss {one['metrics']['logloss']:.3f} is {entropy:.2f} × that of a constant, so "
                "the comparison with this baseline means little. Look at columns that differ between train and test"
            )


def _differs(ratio: float, factor: float, clicks: float) -> bool:
    """Return whether a ratio of click rates is beyond a factor, up or down, and beyond chance."""
    return not 1 / factor <= ratio <= factor and abs(ratio - 1) * clicks**0.5 > _ERRORS


def say_verdict(results: Figures) -> str:
    """Return what `say_best` does, after the objections, one a line, if there are any."""
    best, doubts = f"{say_best(results)}.", [f"- {said}." for said in results["objections"]]
    return "\n".join(["do not trust these figures yet.", *doubts, f"As they stand: {best}"]) if doubts else best


class _Gain(NamedTuple):
    """A figure less another model's, and the ends of its 95 % interval; `better`: the sign of an improvement."""

    what: str
    size: float
    ends: Sequence[float] | None
    better: int = 1

    @property
    def sure(self) -> int:
        """1 for a sure gain, -1 for a sure loss, 0 if chance may explain it."""
        low, high = self.ends or (-1.0, 1.0)
        return self.better * (int(low > 0) - int(high < 0))

    def __str__(self) -> str:
        told = f"{self.what} {self.size:+.4f}" + (" ({:+.4f} to {:+.4f})".format(*self.ends) if self.ends else "")
        return f"{told}, {('a sure loss', 'not sure', 'a sure gain')[self.sure + 1]}"


def say_best(results: Figures) -> str:
    """Return in one sentence which model to use, of yours and the best other, and why: by logloss, else by the order
    within users, if one of them is sure, else by the expected logloss. Yours is the one that the verdict on semantics
    serves."""
    verdict, models, within = results.get("verdict"), results["models"], results["within"]
    order: _Gain | None = None
    ours = verdict["model" if verdict["sure"] else "minus"] if verdict else next(iter(models))
    if within and within["groups"] >= FEWEST_USERS and within["differences"][0]["model"] == ours:
        values = {name: one["pair_accuracy"]["value"] for name, one in within["models"].items() if name in models}
        rival = max((name for name in values if "curve" not in models[name]), key=values.__getitem__)
        found = next(one for one in within["differences"] if one["minus"] == rival)["pair_accuracy"]
        order = _Gain("pairs ranked right within groups", found["difference"], found["ci95"])
    else:
        rivals = [name for name, one in models.items() if "curve" not in one]
        rival = max(rivals, key=lambda name: models[name]["metrics"]["auc"])
        found = _pair(results, ours, rival).get("gauc")
        if found:
            order = _Gain("order within users (GAUC)", found["difference"], found["users"]["ci95"])
    losses = _pair(results, ours, rival)["logloss"]
    # With a single user, only rows can be resampled.
    ends = losses["users"]["ci95"] or losses["rows"]["ci95"]
    return _advice(_Gain("logloss", losses["difference"], ends, better=-1), order, ours, rival)


def _pair(results: Figures, ours: str, rival: str) -> Figures:
    found: Figures = next(one for one in results["differences"] if (one["model"], one["minus"]) == (ours, rival))
    return found


def _advice(level: _Gain, order: _Gain | None, ours: str, other: str) -> str:
    surely = level.sure or (order.sure if order else 0)
    gains = "; ".join(map(str, filter(None, (level, order))))
    told = f"{ours} against the best other, {_WORDS.get(other, other)}: {gains}"
    if not surely:
        return f"use {ours if level.size * level.better > 0 else other}: {told}; ahead by the expected logloss alone"
    if surely < 0:
        return f"use {other}: {told}"
    if order and order.sure <= 0:
        told += "; within users nothing is gained, only the level is"
    elif order and not level.sure:
        told += "; only the order is gained"
    return f"use {ours}: {told}"


def say_semantics(verdict: Figures) -> str:
    """Return the verdict on semantics in one sentence, with the command that exports the model to serve, if known."""
    ends, command = verdict["ci95"], f": {verdict['command']}" if "command" in verdict else ""
    gain = f"{verdict['gain']:+.4f} AUC with live counts"
    gain += f" (95 % over {verdict['unit']}: {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else " (no interval)"
    if verdict["sure"]:
        return f"semantics: sure gain of {gain}: serve {verdict['model']}{command}"
    sure_loss = ends and ends[1] < 0
    return f"semantics: {'sure loss' if sure_loss else 'no sure gain'}, {gain}: serve {verdict['minus']}{command}"
