"""From a request's scores to the reply: corrections of calibration, prices, order, and the document."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.request import Request
from tests.reference.schema import Schema

Scores = dict[str, NDArray[np.float32]]
Formula = Mapping[Any, Sequence[str]]
"""Heads whose product a bid is multiplied by, by pricing; none for a bid that is an eCPM."""
PRICED: Formula = {"cpm": (), "cpc": ("pctr",), "cpa": ("pctr", "pcvr")}
DEVIATION = "logit_std"


class Scored(NamedTuple):
    """Scores [N] by head, in the request's order; what is degraded; how bids are priced; who is first if the request
    explores; and the scores [1] of whoever is at each place of a page behind the first, for that place."""

    scores: Scores
    degraded_candidates: Mapping[str, str] = {}
    degraded_user: str | None = None
    unknown_history: int = 0
    formula: Formula = PRICED
    choice: "Choice | None" = None
    places: Sequence[Scores] = ()


class Choice(NamedTuple):
    """The first candidate by its place, whether the policy chose it, and the probability before the draw."""

    policy: str
    share: float
    seed: str
    explored: bool
    first: int
    propensity: float


def segments_of(request: Request, schema: Schema, slot: int | None) -> list[str]:
    """Return the segments of a request that is scored for a place of the page."""
    found, constants = ["known" if request.user_id else "anonymous"], schema.constants()
    for field in schema.categories("context"):
        name = field["name"]
        value = request.context.get(name, constants.get(name))
        if field["kind"] == "categorical" and name != schema.position and value in field["vocabulary"]:
            found.append(f"{name}={value}")
    place = schema.slot(slot)
    return found if schema.position is None or place is None else [*found, f"slot {place}"]


def corrected(scores: Scores, correction: Mapping[str, Any], segments: Sequence[str]) -> Scores:
    """Return scores by head after a correction: log-odds z become centre + shift + slope × (z − centre)."""
    found = dict(scores)
    for head, one in (("pctr", correction), ("pcvr", correction.get("conversions"))):
        if one and head in scores:
            shift = one["shift"]
            for name, own in one["segments"].items():
                shift += own if name in segments else 0.0
            shift, slope, centre = min(max(shift, -1.0), 1.0), one["slope"], one["centre"]
            odds = np.divide(1.0 + 1e-12, scores[head] + np.float32(1e-38), dtype=np.float64) - 1.0
            offset = centre + shift - slope * centre
            found[head] = np.reciprocal(np.exp(np.log(odds) * slope - offset) + 1.0).astype(np.float32)
    return found


def ecpm_of(
    bids: Sequence[float | None] | None, pricing: Sequence[str] | None, scores: Scores, formula: Formula
) -> NDArray[np.float64]:
    """Return the eCPM [N] of bids, NaN without one: 1,000 × bid × the heads of its pricing, a click by default."""
    found = []
    for place in range(len(scores["pctr"])):
        bid = None if bids is None else bids[place]
        one = "cpc" if pricing is None else pricing[place]
        heads = ("pctr",) if pricing is None else formula[one]
        value = np.nan if bid is None else float(bid) * (1_000.0 if heads else 1.0)
        for head in heads:
            value *= float(scores[head][place])
        found.append(value)
    return np.array(found, np.float64)


def order_of(ecpm: NDArray[np.float64], pctr: NDArray[np.float32], first: int | None = None) -> list[int]:
    """Return candidates, best first: those with a bid by eCPM, others by pCTR; equal ones as they came."""
    unpriced = np.isnan(ecpm)
    order: list[int] = np.lexsort((-np.where(unpriced, pctr, ecpm), unpriced)).tolist()
    return order if first is None else [first, *(place for place in order if place != first)]


def reply_document(request_id: str, version: str, request: Request, scored: Scored, arm: str | None) -> dict[str, Any]:
    """Return the reply before it is JSON, with arrays as columns; NaN becomes null."""
    document: dict[str, Any] = {"request_id": request_id, "model_version": version}
    if arm is not None:
        document["arm"] = arm
    ecpm = ecpm_of(request.bids, request.pricing, scored.scores, scored.formula)
    best = order_of(ecpm, scored.scores["pctr"], None if scored.choice is None else scored.choice.first)
    order = list(range(len(ecpm))) if request.top_k is None else best[: request.top_k]
    heads = {name: column[order] for name, column in scored.scores.items()}
    document["candidates"] = {"id": [request.ids[place] for place in order], **heads, "ecpm": ecpm[order]}
    degraded = {
        "user": scored.degraded_user,
        "candidates": scored.degraded_candidates,
        "values": dict.fromkeys(request.unknown, "unknown"),
        "history": scored.unknown_history,
    }
    if any(degraded.values()):
        document["degraded"] = {part: declared for part, declared in degraded.items() if declared}
    if scored.choice is not None:
        document["explore"] = {**scored.choice._asdict(), "first": request.ids[scored.choice.first]}
    if request.page is not None and request.slot is not None:
        document["page"] = _page(request, request.slot, scored, best[: request.page], ecpm)
    return document


def _page(request: Request, slot: int, scored: Scored, order: list[int], ecpm: NDArray[np.float64]) -> dict[str, Any]:
    """Return the best candidates, each with its scores at its place, and what they are worth together."""
    heads = {name: column[order] for name, column in scored.scores.items() if name != DEVIATION}
    worth = ecpm[order]
    for place, (candidate, scores) in enumerate(zip(order[1:], scored.places, strict=False), start=1):
        for name, column in heads.items():
            column[place] = scores[name][0]
        own = slice(candidate, candidate + 1)
        bids, pricing = request.bids and request.bids[own], request.pricing and request.pricing[own]
        worth[place] = ecpm_of(bids, pricing, scores, scored.formula)[0]
    total = 0.0
    for one in worth.tolist():
        total += one
    ids, slots = [request.ids[candidate] for candidate in order], [slot + place for place in range(len(order))]
    return {"id": ids, "slot": slots, **heads, "ecpm": worth, "total_ecpm": total}


def spread(scores: Scores, ids: Sequence[str], degraded: Mapping[str, str]) -> tuple[Scores, dict[str, str]]:
    """Return scores [N] of all IDs, and what is degraded, if only the first k had time: `scores` [k + 1] has an unknown
    candidate behind them. A repeated ID has one score."""
    count = len(scores["pctr"]) - 1
    places = [ids.index(one) if one in ids[:count] else count for one in ids]
    late = dict.fromkeys((one for one in ids[count:] if one not in ids[:count]), "prior")
    return {head: column[places] for head, column in scores.items()}, {**degraded, **late}
