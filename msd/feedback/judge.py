"""Two bundles of any data, schemas and students judged on the same later impressions of a log: ranking, calibration by
segment, the value of what each would put first, and latency. Does not know where the log is or what follows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.bootstrap import compare, resample_metrics
from msd.contract.correction import CONVERSIONS, HEAD, Scores
from msd.contract.pricing import ecpm_of
from msd.feedback.arms import PER, plain
from msd.feedback.files import FeedbackError
from msd.feedback.gate import Check, Figures, Gate, checks_of
from msd.feedback.policy_value import ExploredRequests, Rewards, Target, best_of, explored_requests, first_of, value_of
from msd.feedback.scored_bundle import ScoredBundle, ScoredRequest
from msd.metrics import measure, measure_pooled

Floats = NDArray[np.float64]
Pair = tuple[ScoredBundle, ScoredBundle]
_NAMES = ("old", "new")


class Verdict(NamedTuple):
    """What was measured, and the gate's checks of it."""

    figures: Figures
    checks: list[Check]

    @property
    def promotes(self) -> bool:
        """Return whether all checks hold."""
        return all(check.holds for check in self.checks)

    def document(self) -> Figures:
        """Return both as JSON values."""
        document: Any = plain({**self.figures, "checks": self.checks, "promotes": self.promotes})
        return dict(document)


def judge(
    old: ScoredBundle,
    new: ScoredBundle,
    requests: Iterable[pl.DataFrame],
    impressions: pl.DataFrame | pl.LazyFrame,
    gate: Gate,
    *,
    since: float = 0.0,
    most_requests: int = 20_000,
    resamples: int = 1_000,
) -> Verdict:
    """Return the verdict on the `impressions` (of `join`) after `since` and after the data of both bundles, of the
    latest `most_requests` requests. `requests` are the log's, with JUDGE_COLUMNS.

    Raises FeedbackError if no impression is late enough, or none is left of those that both bundles accept.
    """
    start = max(since, old.data_until, new.data_until)
    after = impressions.lazy().filter(pl.col("at") > start)
    ids = after.select("request_id").unique(maintain_order=True).tail(most_requests).collect()["request_id"]
    if ids.is_empty():
        raise FeedbackError(
            f"none of {impressions.lazy().select(pl.len()).collect().item()} impressions is later than the data of both"
            f" bundles, which ends at {start:.0f} (Unix s): they would be judged on what they have seen"
        )
    later = after.filter(pl.col("request_id").is_in(ids.implode())).collect()
    judged = [frame.join(ids.to_frame(), on="request_id", how="semi", maintain_order="left") for frame in requests]
    scored = _score((old, new), judged, later)
    kept = np.isfinite(scored.pctr).all(0)
    refused = {name: one.refused for name, one in zip(_NAMES, (old, new), strict=True)}
    later, pctr = later.filter(pl.Series(kept)), scored.pctr[:, kept]
    if later.is_empty():
        raise FeedbackError(f"not one request is accepted by both bundles; refused: {refused}")
    labels = later["label"].to_numpy().astype(np.float64)
    figures: Figures = {
        "since": start,
        "requests": len(ids),
        "impressions": later.height,
        "clicks": int(labels.sum()),
        "at_unknown_positions": later["position"].null_count(),
        "refused": refused,
    }
    if 0 < labels.sum() < len(labels):
        figures |= _figures(later, labels, pctr, scored.weights[kept], resamples)
        figures["value"] = _value((old, new), judged, later, scored.firsts)
        for place, (name, one) in enumerate(zip(_NAMES, (old, new), strict=True)):
            own = {"ms": 1_000 * float(np.median(one.seconds)), "bundle_id": one.bundle.bundle_id}
            figures["models"][name] |= own | {CONVERSIONS: _conversions(later, scored.pcvr[place, kept])}
    return Verdict(figures, checks_of(gate, figures))


class _Scored(NamedTuple):
    """Of n impressions, where they were shown: both bundles' pctr and pcvr [2, n], NaN if either refused the request or
    there is no such head; weights [n] by which first impressions of requests that explored are as if each bundle had
    chosen half of them, NaN if unknown; and what each would have put first, by request that explored."""

    pctr: Floats
    pcvr: Floats
    weights: Floats
    firsts: tuple[dict[str, Mapping[str, float]], dict[str, Mapping[str, float]]]


def _score(bundles: Pair, requests: Iterable[pl.DataFrame], later: pl.DataFrame) -> _Scored:
    columns = ("request_id", "item_id", "row", "position")
    due = later.with_row_index("row").select(columns).rows_by_key("request_id")
    pctr, pcvr = np.full((2, 2, later.height), np.nan)
    scored = _Scored(pctr, pcvr, np.full(later.height, np.nan), ({}, {}))
    for frame in requests:
        for row in frame.iter_rows(named=True):
            shown = due.pop(row["request_id"], None)
            if shown is None:
                continue
            state = next((state for one in bundles if (state := one.state_of(row)) is not None), None)
            both = [one.score_shown(row, state, {position for *_, position in shown}) for one in bundles]
            if None in both:
                continue
            rows = [number for _, number, _ in shown]
            for place, (one, scores) in enumerate(zip(bundles, both, strict=True)):
                assert scores is not None, "both accepted the request"
                pctr[place, rows], pcvr[place, rows] = _where_shown(scores, row["item_ids"], shown)
                if row["explore"] is not None:
                    scored.firsts[place][row["request_id"]] = {_first(one, row, scores.served): 1.0}
            if row["explore"] is not None:
                own = [firsts[row["request_id"]] for firsts in scored.firsts]
                for item_id, number, _ in shown:
                    chance = np.mean([item_id in first for first in own])
                    scored.weights[number] = chance / row["explore"]["propensity"] if item_id == first_of(row) else 0.0
    return scored


def _where_shown(of: ScoredRequest, item_ids: list[str], shown: Sequence[tuple[str, int, int | None]]) -> Floats:
    """Return pctr and pcvr [2, n] of a request's impressions, where each was shown; NaN without such a head."""
    nowhere = np.full(len(item_ids), np.nan)
    return np.array(
        [
            [of.shown[position].get(head, nowhere)[item_ids.index(item_id)] for item_id, _, position in shown]
            for head in (HEAD, CONVERSIONS)
        ]
    )


def _first(bundle: ScoredBundle, row: Mapping[str, Any], scores: Scores) -> str:
    """Return the candidate that the bundle would put first."""
    ecpm = ecpm_of(row["bids"], row["pricing"], scores, bundle.bundle.manifest.formula)
    return str(row["item_ids"][best_of(ecpm, scores[HEAD])])


def _figures(later: pl.DataFrame, labels: Floats, pctr: Floats, weights: Floats, resamples: int) -> Figures:
    """Return metrics by bundle, differences on all impressions and on comparable ones, calibration by segment."""
    users = later["user_id"].rank("dense").to_numpy().astype(np.int64)
    models = {name: measure(labels, own, users) for name, own in zip(_NAMES, pctr, strict=True)}
    rows = weights > 0  # NaN is not
    comparable: Figures = {"impressions": int(rows.sum()), "clicks": int(labels[rows].sum())}
    if 0 < comparable["clicks"] < comparable["impressions"]:
        own = labels[rows], pctr[:, rows], users[rows], weights[rows]
        comparable["differences"] = _differences(*own, resamples)
    segments = {}
    for name in sorted(set(later["segments"].explode().to_list())):
        rows = later["segments"].list.contains(name).to_numpy()
        clicks = int(labels[rows].sum())
        ratios = {
            one: float(own[rows].sum()) / clicks if clicks else None for one, own in zip(_NAMES, pctr, strict=True)
        }
        segments[name] = {"impressions": int(rows.sum()), "clicks": clicks, "predicted_over_observed": ratios}
    differences = _differences(labels, pctr, users, np.ones(len(labels)), resamples)
    return {"models": models, "differences": differences, "comparable": comparable, "segments": segments}


def _differences(
    labels: Floats, pctr: Floats, users: NDArray[np.int64], weights: Floats, resamples: int
) -> dict[str, Figures]:
    """Return new − old by metric, with the standard error and paired interval over users."""
    old, new = (measure_pooled(labels, own, weights) for own in pctr)
    drawn = resample_metrics(labels, pctr, users, resamples, impressions=weights)
    differences = {}
    for metric in drawn._fields:
        samples = getattr(drawn, metric)
        error = float(np.std(samples[1] - samples[0]))
        uncertainty = {"error": error, **compare(samples[1:], samples[:1])}
        differences[metric] = {"difference": new[metric] - old[metric], **uncertainty}
    return differences


def _conversions(later: pl.DataFrame, pcvr: Floats) -> Figures | None:
    """Return the quality of predicted conversions of clicks; None without both outcomes, or without predictions."""
    if "conversion" not in later.columns:
        return None
    clicked = later["label"].to_numpy() > 0
    converted = later["conversion"].to_numpy().astype(np.float64)[clicked]
    if len(np.unique(converted)) < 2 or not np.isfinite(pcvr[clicked]).all():
        return None
    return measure_pooled(converted, pcvr[clicked])


def _value(
    bundles: Pair,
    requests: Sequence[pl.DataFrame],
    later: pl.DataFrame,
    firsts: tuple[Target, Target],
) -> Figures | None:
    """Return the value of a first impression under each bundle and of their difference, by IPS, SNIPS and DR; None if
    no request with a propensity had its first candidate shown."""
    formulas = {one.bundle.bundle_id: one.bundle.manifest.formula for one in bundles}
    try:
        old, new = (explored_requests(requests, later, target, {}, formulas) for target in firsts)
    except FeedbackError:
        if any(firsts):
            raise
        return None
    metric = "rpm" if old.rewards["rpm"].earned.any() else "ctr"
    of_old, of_new = old.rewards[metric], new.rewards[metric]
    # IPS and DR are linear in the target, so that of a difference of targets is the difference, with its interval.
    gap = Rewards(of_old.earned, of_old.predicted, of_new.predicted_of_target - of_old.predicted_of_target)
    both = ExploredRequests(old.users, old.propensity, new.target - old.target, {metric: gap})
    found = {"old": old, "new": new, "difference": both}
    values = {name: value_of(rows, metric, PER[metric])._asdict() for name, rows in found.items()}
    for name in ("logged", "snips"):
        del values["difference"][name]
    return {"of": metric, "requests": len(old.users), **values}
