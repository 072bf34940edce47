"""The reply to a scoring request, from its scores, in Python: the reference of what the native core writes.

Candidates without time to be scored get the score of an unknown item, from the same run, and are declared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Rung, UserRung
from msd.contract.exploration import Choice
from msd.contract.pricing import PRICED, Formula, ecpm_of, served_places
from msd.contract.request import CheckedRequest
from msd.contract.uncertainty import COLUMN

Scores = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] by head, in the request's order, the degradation to declare, how the bundle makes eCPM of prices, and
    who is first if the request explores."""

    scores: Scores
    degraded_candidates: Mapping[str, Rung] = field(default_factory=dict)
    degraded_user: UserRung | None = None
    unknown_history: int = 0
    formula: Formula = field(default_factory=lambda: PRICED)
    choice: Choice | None = None
    places: Sequence[Scores] = ()
    """Scores [1] of the candidate at each place of a page behind the first, for that place; none if all are alike."""


def reply_document(
    request_id: str, model_version: str, request: CheckedRequest, scored: Scored, arm: str | None = None
) -> dict[str, Any]:
    """Return the reply before it is JSON, with arrays as columns; NaN becomes null. `arm` is included if there are
    several."""
    document: dict[str, Any] = {"request_id": request_id, "model_version": model_version}
    if arm is not None:
        document["arm"] = arm
    document["candidates"] = _columns(request, scored)
    degraded = {
        "user": scored.degraded_user,
        "candidates": scored.degraded_candidates,
        "values": dict.fromkeys(request.unknown, "unknown"),
        "history": scored.unknown_history,
    }
    if any(degraded.values()):
        document["degraded"] = {part: declared for part, declared in degraded.items() if declared}
    if scored.choice is not None:
        document["explore"] = {**scored.choice.as_record(), "first": request.ids[scored.choice.first]}
    if request.page is not None:
        document["page"] = _page(request, scored)
    return document


def _columns(request: CheckedRequest, scored: Scored) -> dict[str, Any]:
    """Return IDs, heads and eCPM, NaN without a bid; best first with `top_k`."""
    ecpm = ecpm_of(request.bids, request.pricing, scored.scores, scored.formula)
    if request.top_k is None:
        return {"id": request.ids, **scored.scores, "ecpm": ecpm}
    first = None if scored.choice is None else scored.choice.first
    order = served_places(ecpm, scored.scores["pctr"], request.top_k, first)
    heads = {name: column[order] for name, column in scored.scores.items()}
    return {"id": [request.ids[place] for place in order.tolist()], **heads, "ecpm": ecpm[order]}


def _page(request: CheckedRequest, scored: Scored) -> dict[str, Any]:
    """Return the best candidates, each with its scores at its place, and what they are worth together."""
    assert request.page is not None
    assert request.slot is not None, "a page has a first place"
    ecpm = ecpm_of(request.bids, request.pricing, scored.scores, scored.formula)
    first = None if scored.choice is None else scored.choice.first
    order = served_places(ecpm, scored.scores["pctr"], request.page, first)
    heads = {name: column[order] for name, column in scored.scores.items() if name != COLUMN}
    worth = ecpm[order]
    for place, (candidate, scores) in enumerate(zip(order[1:].tolist(), scored.places, strict=False), start=1):
        for name, column in heads.items():
            column[place] = scores[name][0]
        own = slice(candidate, candidate + 1)
        bids, pricing = request.bids and request.bids[own], request.pricing and request.pricing[own]
        worth[place] = ecpm_of(bids, pricing, scores, scored.formula)[0]
    total = 0.0
    for one in worth.tolist():
        total += one
    ids = [request.ids[candidate] for candidate in order.tolist()]
    slots = [request.slot + place for place in range(len(ids))]
    return {"id": ids, "slot": slots, **heads, "ecpm": worth, "total_ecpm": total}


def spread(scores: Scores, ids: Sequence[str]) -> Scores:
    """Return scores [N] of all IDs from those [k + 1] of the first k and an unknown item behind them."""
    count = _scored(scores)
    first = {one: place for place, one in reversed(list(enumerate(ids[:count])))}
    # A repeated ID has one score.
    order = np.array([*range(count), *(first.get(id_, count) for id_ in ids[count:])])
    return {head: column[order] for head, column in scores.items()}


def declared(scores: Scores, ids: Sequence[str], degraded: Mapping[str, Rung]) -> dict[str, Rung]:
    """Return the degradation to declare if only the first k IDs were scored."""
    count = _scored(scores)
    late = set(ids[count:]) - set(ids[:count])
    return {**degraded, **dict.fromkeys((id_ for id_ in ids[count:] if id_ in late), "prior")}


def _scored(scores: Scores) -> int:
    return len(next(iter(scores.values()))) - 1
