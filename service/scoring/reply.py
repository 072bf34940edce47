"""The reply to a scoring request: its schema, and its construction from scores and bids. Does not know where scores
come from.

Candidates without time to be scored get the score of an unknown item, from the same run, and are declared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from msd.contract.assemble import Rung, UserRung
from msd.contract.request import CheckedRequest
from service.runtimes.runtime import Scores
from service.scoring.answer import Scored

Probability = Annotated[float, Field(ge=0, le=1)]
Order = slice | NDArray[np.intp]
# Limit of log-odds: fp32 has no resolution beyond it, and those of 0 and 1 are infinite.
_LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class Explanation:
    """In log-odds: shares [N] by group, which sum to the score's less the base's; and each candidate's change without
    each of the latest history items [N, H]. `base` is a probability, `seconds` is the duration."""

    base: float
    shares: Mapping[str, NDArray[np.float64]]
    history: list[str]
    effects: NDArray[np.float64]
    seconds: float


class ScoredCandidates(BaseModel):
    """Columns of equal length, in the request's order, or ranked when `top_k` was given."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "array"}})

    id: list[str]
    pctr: list[Probability] = Field(description="Calibrated click probability. Further heads stand beside by name.")
    ecpm: list[float | None] = Field(description="1000 × bid × pctr; null without a bid.")


class Degraded(BaseModel):
    """What was scored from less than its own row; absent when nothing was."""

    user: UserRung | None = Field(
        default=None,
        description="`unknown` has no row; `cached` is scored by what was last known of the user or of the history.",
    )
    candidates: dict[str, Rung] | None = Field(
        default=None,
        description="By candidate: `cached` is scored by its row as it was last known; `encoded` has no row, but the"
        " vector of its text in the request; `category_prior` has no row, and knows what else the request says of it;"
        " `prior` knows nothing, or there was not the time to score it. An ad whose text is yet to be encoded is scored"
        " without, and may be `encoded` later.",
    )
    values: dict[str, Literal["unknown"]] | None = Field(
        default=None,
        description="By where it stands in the request, as `context.hour`: a category that the model has never seen,"
        " misspelt maybe. It is scored as an unknown one; of items, `items.features.NAME` stands for all of them.",
    )


class Shares(BaseModel):
    """Log-odds by candidate, which sum to those of its pCTR less those of `base` (Shapley values of the groups)."""

    semantic: list[float] = Field(description="The vectors of what the teacher knows of user, item and history.")
    id: list[float] = Field(description="What was learned by heart of user and item by their ids.")
    dense: list[float] = Field(description="Categories, numbers, counts and the context.")
    history: list[float] = Field(description="The items that the user clicked.")


class ExplainedHistory(BaseModel):
    """The items of the history that the model saw, oldest first, the latest 50 at most."""

    id: list[str]
    effect: list[list[float]] = Field(
        description="By candidate, one an item: how much lower its log-odds would be if the item were not there."
    )


class ExplanationReply(BaseModel):
    """What the scores came of, in the order of `candidates`."""

    base: Probability = Field(description="The pCTR where nothing at all is known of the request.")
    shares: Shares
    history: ExplainedHistory


class ScoreReply(BaseModel):
    """The answer to a scoring request."""

    request_id: str
    model_version: str
    arm: str | None = Field(default=None, description="Of the experiment, where there is one; else absent.")
    candidates: ScoredCandidates
    degraded: Degraded | None = None
    explanation: ExplanationReply | None = Field(default=None, description="Where the request says `explain`.")


def build_reply(
    request_id: str,
    model_version: str,
    request: CheckedRequest,
    scored: Scored,
    arm: str | None = None,
    explanation: Explanation | None = None,
) -> bytes:
    """Return the reply's JSON; `arm` is included if there are several."""
    columns, order = served_columns(request, scored)
    document: dict[str, Any] = {"request_id": request_id, "model_version": model_version}
    if arm is not None:
        document["arm"] = arm
    document["candidates"] = columns
    degraded: dict[str, Any] = {}
    if scored.degraded_user:
        degraded["user"] = scored.degraded_user
    if scored.degraded_candidates:
        degraded["candidates"] = scored.degraded_candidates
    if request.unknown:
        degraded["values"] = dict.fromkeys(request.unknown, "unknown")
    if degraded:
        document["degraded"] = degraded
    if explanation is not None:
        document["explanation"] = _explained(explanation, order)
    # Without a bid the eCPM is NaN, which becomes null.
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _explained(explanation: Explanation, order: Order) -> dict[str, Any]:
    return {
        "base": explanation.base,
        "shares": {group: share[order] for group, share in explanation.shares.items()},
        "history": {"id": explanation.history, "effect": explanation.effects[order].tolist()},
    }


def served_columns(request: CheckedRequest, scored: Scored) -> tuple[dict[str, Any], Order]:
    """Return the reply's columns: IDs, heads and eCPM, NaN without a bid; and their indices, best first with
    `top_k`."""
    pctr = scored.scores["pctr"]
    ecpm = _ecpm(request.bids, pctr)
    if request.top_k is None:
        return {"id": request.ids, **scored.scores, "ecpm": ecpm}, slice(None)
    order = served_places(request.bids, pctr, request.top_k)
    ids = [request.ids[place] for place in order.tolist()]
    heads = {name: column[order] for name, column in scored.scores.items()}
    return {"id": ids, **heads, "ecpm": ecpm[order]}, order


def _ecpm(bids: list[float | None] | None, pctr: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N], NaN without a bid."""
    if bids is None:
        return np.full(len(pctr), np.nan)
    return 1000.0 * np.array(bids, np.float64) * pctr


def served_places(bids: list[float | None] | None, pctr: NDArray[np.float32], top_k: int) -> NDArray[np.intp]:
    """Return the indices of the candidates under `top_k`, best first."""
    return _ranking(pctr, _ecpm(bids, pctr))[:top_k]


def _ranking(pctr: NDArray[np.float32], ecpm: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return indices [N], best first: those with a bid by eCPM, then those without by pCTR; ties keep their order."""
    unpriced = np.isnan(ecpm)
    return np.lexsort((-np.where(unpriced, pctr, ecpm), unpriced))


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-odds [N], finite for 0 and 1 too."""
    within = np.clip(probability.astype(np.float64), _LEAST, 1.0 - _LEAST)
    return np.log(within) - np.log1p(-within)


def spread(scores: Scores, ids: Sequence[str]) -> Scores:
    """Return scores [N] of all IDs from those [k + 1] of the first k and an unknown item behind them."""
    count = _scored(scores)
    first = {one: place for place, one in reversed(list(enumerate(ids[:count])))}
    # A repeated ID has one score.
    order = np.array([*range(count), *(first.get(one, count) for one in ids[count:])])
    return {head: column[order] for head, column in scores.items()}


def declared(scores: Scores, ids: Sequence[str], degraded: Mapping[str, Rung]) -> dict[str, Rung]:
    """Return the degradation to declare if only the first k IDs were scored."""
    count = _scored(scores)
    late = set(ids[count:]) - set(ids[:count])
    return {**degraded, **dict.fromkeys((one for one in ids[count:] if one in late), "prior")}


def _scored(scores: Scores) -> int:
    return len(next(iter(scores.values()))) - 1
