"""Two bundles of any data, schemas and students judged on the same later impressions of a log: ranking, calibration by
segment, the value of what each would put first, and latency. Does not know where the log is or what follows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.bootstrap import compare, resample_metrics, resampled_sums
from msd.contract.correction import CONVERSIONS, HEAD, Scores
from msd.contract.pricing import Formula, ecpm_of, paid_by_click
from msd.feedback.arms import Estimate, plain, ratio_of_medians
from msd.feedback.files import FeedbackError
from msd.feedback.gate import Check, Decision, Figures, Gate, checks_of, decided
from msd.feedback.policy_value import best_of, estimate_of, first_of
from msd.feedback.proposals import Proposal, value_of_proposals
from msd.feedback.recalibrate import learn_held_back
from msd.feedback.scored_bundle import LoggedState, ScoredRequest
from msd.metrics import ece_bins, measure, measure_pooled

Floats = NDArray[np.float64]
_NAMES = ("old", "new")


class _Manifest(Protocol):
    @property
    def formula(self) -> Formula: ...


class _Bundle(Protocol):
    @property
    def bundle_id(self) -> str: ...
    @property
    def manifest(self) -> _Manifest: ...


class Scorer(Protocol):
    """What is judged, as `ScoredBundle`: it scores logged requests again."""

    refused: int
    seconds: list[float]

    @property
    def bundle(self) -> _Bundle: ...
    @property
    def data_until(self) -> float: ...
    def state_of(self, row: Mapping[str, Any]) -> LoggedState | None: ...
    def score_shown(
        self, row: Mapping[str, Any], state: LoggedState | None, positions: Collection[int | None]
    ) -> ScoredRequest | None: ...


Pair = tuple[Scorer, Scorer]


class Verdict(NamedTuple):
    """What was measured, and the gate's checks of it."""

    figures: Figures
    checks: list[Check]

    @property
    def decision(self) -> Decision:
        """Return what the checks decide."""
        return decided(self.checks)

    def document(self) -> Figures:
        """Return both as JSON values."""
        document: Any = plain({**self.figures, "checks": self.checks, "decision": self.decision})
        return dict(document)


def judge(
    old: Scorer,
    new: Scorer,
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
    judged = (frame.join(ids.to_frame(), on="request_id", how="semi", maintain_order="left") for frame in requests)
    scored = _score((old, new), judged, later)
    kept = np.isfinite(scored.pctr.sum(0))
    refused = {name: one.refused for name, one in zip(_NAMES, (old, new), strict=True)}
    if not kept.any():
        raise FeedbackError(f"not one request is accepted by both bundles; refused: {refused}")
    labels = later["label"].to_numpy().astype(np.float64)[kept]
    figures: Figures = {
        "since": start,
        "requests": len(ids),
        "impressions": len(labels),
        "clicks": int(labels.sum()),
        "at_unknown_positions": later.filter(pl.Series(kept))["position"].null_count(),
        "refused": refused,
    }
    if 0 < labels.sum() < len(labels):
        users = later["user_id"].rank("dense").to_numpy().astype(np.int64)
        figures |= _figures(later.filter(pl.Series(kept)), users[kept], scored.kept(kept), resamples)
        figures["value"] = value_of_proposals(scored.proposals, later, users, resamples)
        found = learn_held_back(later.filter(pl.Series(kept)), scored.pctr[1, kept])
        figures["correction"] = None if found is None else found.model_dump()
        figures["latency"] = ratio_of_medians(old.seconds, new.seconds)
        for name, one in zip(_NAMES, (old, new), strict=True):
            own = {"ms": 1_000 * float(np.median(one.seconds)), "bundle_id": one.bundle.bundle_id}
            figures["models"][name] |= own
    return Verdict(figures, checks_of(gate, figures))


class _Scored(NamedTuple):
    """Of n impressions, where they were shown: both bundles' pctr and pcvr [2, n], NaN if either refused the request or
    there is no such head; weights [n] by which first impressions of requests that explored are as if each bundle had
    chosen half of them, NaN if unknown; and what each would have put first in these."""

    pctr: Floats
    pcvr: Floats
    weights: Floats
    proposals: list[Proposal]

    def kept(self, rows: NDArray[np.bool_]) -> "_Scored":
        """Return some impressions, and all proposals."""
        return _Scored(self.pctr[:, rows], self.pcvr[:, rows], self.weights[rows], self.proposals)


def _score(bundles: Pair, requests: Iterable[pl.DataFrame], later: pl.DataFrame) -> _Scored:
    columns = ("request_id", "item_id", "row", "position")
    due = later.with_row_index("row").select(columns).rows_by_key("request_id")
    pctr, pcvr = np.full((2, 2, later.height), np.nan)
    scored = _Scored(pctr, pcvr, np.full(later.height, np.nan), [])
    for frame in requests:
        for row in frame.iter_rows(named=True):
            shown = due.pop(row["request_id"], None)
            if shown is None:
                continue
            state = next((state for one in bundles if (state := one.state_of(row)) is not None), None)
            both = [one.score_shown(row, state, {position for *_, position in shown}) for one in bundles]
            old, new = both
            if old is None or new is None:
                continue
            rows = [number for _, number, _ in shown]
            for place, scores in enumerate((old, new)):
                scored.pctr[place, rows], scored.pcvr[place, rows] = _where_shown(scores, row["item_ids"], shown)
            if row["explore"] is not None:
                at = [row["item_ids"].index(item_id) for item_id, *_ in shown]
                _propose(bundles, row, (old.served, new.served), dict(zip(at, rows, strict=True)), scored)
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


def _propose(
    bundles: Pair, row: Mapping[str, Any], scores: tuple[Scores, Scores], shown: Mapping[int, int], scored: _Scored
) -> None:
    """Note the weights of an explored request's impressions, whose numbers are `shown` by the candidate's place; and
    its proposal, if the first candidate was shown."""
    ids, formulas = row["item_ids"], [one.bundle.manifest.formula for one in bundles]
    ecpm = [ecpm_of(row["bids"], row["pricing"], own, one) for own, one in zip(scores, formulas, strict=True)]
    # An ID that comes twice is its first place.
    firsts = [ids.index(ids[best_of(worth, own[HEAD])]) for worth, own in zip(ecpm, scores, strict=True)]
    first, propensity = ids.index(first_of(row)), float(row["explore"]["propensity"])
    for place, number in shown.items():
        scored.weights[number] = firsts.count(place) / 2 / propensity if place == first else 0.0
    if first in shown:
        at = [first, *firsts]
        by_click = paid_by_click(row["pricing"], formulas[0], len(ids))
        pctr, worth = tuple(one[HEAD][at] for one in scores), tuple(one[at] for one in ecpm)
        named = tuple(ids[place] for place in at)
        scored.proposals.append(Proposal(shown[first], propensity, named, pctr, worth, tuple(by_click[at].tolist())))


def _figures(later: pl.DataFrame, users: NDArray[np.int64], scored: _Scored, resamples: int) -> Figures:
    """Return metrics by bundle, differences on all impressions and on comparable ones, and calibration."""
    labels, pctr = later["label"].to_numpy().astype(np.float64), scored.pctr
    models: Figures = {name: measure(labels, own, users) for name, own in zip(_NAMES, pctr, strict=True)}
    rows = scored.weights > 0  # NaN is not
    comparable: Figures = {"impressions": int(rows.sum()), "clicks": int(labels[rows].sum())}
    if 0 < comparable["clicks"] < comparable["impressions"]:
        own = labels[rows], pctr[:, rows], users[rows], scored.weights[rows]
        comparable["differences"] = _differences(*own, resamples)
    segments = {
        name: _calibration(labels, pctr, users, later["segments"].list.contains(name).to_numpy(), resamples)
        for name in sorted(set(later["segments"].explode().to_list()))
    }
    positions = {
        str(place): _calibration(labels, pctr, users, later["position"].eq_missing(place).to_numpy(), resamples)
        for place in sorted(set(later["position"].drop_nulls().to_list()))
    }
    conversions = _conversions(later, users, scored.pcvr, models, resamples)
    return {
        "models": models,
        "differences": _differences(labels, pctr, users, np.ones(len(labels)), resamples),
        "rise_of_ece": _rise_of_ece(labels, pctr, users, resamples),
        "comparable": comparable,
        "segments": segments,
        "positions": positions,
        "conversions": conversions,
    }


def _calibration(
    labels: Floats, predicted: Floats, users: NDArray[np.int64], rows: NDArray[np.bool_], resamples: int
) -> Figures:
    """Return predicted ÷ observed of some impressions by bundle, how far the new one's is from 1, as a factor, and that
    factor ÷ the old one's."""
    clicks = int(labels[rows].sum())
    found: Figures = {"impressions": int(rows.sum()), "clicks": clicks}
    if not clicks:
        return found | {"predicted_over_observed": dict.fromkeys(_NAMES)}
    sums = np.stack([*predicted[:, rows], labels[rows]])
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no click, and a bundle may expect none
        drawn, whole = (
            np.exp(np.abs(np.log(one[:2] / one[2])))
            for one in (resampled_sums(users[rows], sums, resamples), sums.sum(1))
        )
        over_old = estimate_of(float(whole[1] / whole[0]), drawn[1] / drawn[0])
    ratios = dict(zip(_NAMES, (sums[:2].sum(1) / clicks).tolist(), strict=True))
    factor = estimate_of(float(whole[1]), drawn[1])
    return found | {"predicted_over_observed": ratios, "factor": factor, "factor_over_old": over_old}


def _rise_of_ece(labels: Floats, pctr: Floats, users: NDArray[np.int64], resamples: int) -> Estimate:
    """Return new − old of the expected calibration error, whose bins stay those of all rows."""
    drawn, whole = [], []
    for own in pctr:
        bins = ece_bins(own)
        gaps = np.where(np.arange(bins.max() + 1)[:, None] == bins, own - labels, 0.0)
        sums = resampled_sums(users, np.vstack([gaps, np.ones(len(labels))]), resamples)
        drawn.append(np.abs(sums[:-1]).sum(0) / sums[-1])
        whole.append(float(np.abs(gaps.sum(1)).sum()) / len(labels))
    return estimate_of(whole[1] - whole[0], drawn[1] - drawn[0])


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


def _conversions(
    later: pl.DataFrame, users: NDArray[np.int64], pcvr: Floats, models: Figures, resamples: int
) -> Figures | None:
    """Return the calibration of both bundles' predicted conversions of clicks, and note each bundle's quality; None
    without both outcomes, or where either predicts none."""
    for model in models.values():
        model[CONVERSIONS] = None
    if "conversion" not in later.columns:
        return None
    clicked = later["label"].to_numpy() > 0
    converted = later["conversion"].to_numpy().astype(np.float64)
    if len(np.unique(converted[clicked])) < 2:
        return None
    predicts = [bool(np.isfinite(own[clicked]).all()) for own in pcvr]
    for model, own, is_whole in zip(models.values(), pcvr, predicts, strict=True):
        model[CONVERSIONS] = measure_pooled(converted[clicked], own[clicked]) if is_whole else None
    return _calibration(converted, pcvr, users, clicked, resamples) if all(predicts) else None
