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
