"""The schema of the reply to a scoring request, which the native core writes; and the explanation that is added."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from msd.contract.exploration import Played
from msd.contract.tensors import Rung, UserRung

Probability = Annotated[float, Field(ge=0, le=1)]
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
    """Columns of equal length, in the request's order, or ranked with `top_k`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "array"}})

    id: list[str]
    pctr: list[Probability] = Field(description="Calibrated click probability. Other heads are further columns.")
    ecpm: list[float | None] = Field(description="1000 × bid × pctr, or as `pricing` says; null without a bid.")


class PageReply(BaseModel):
    """The best candidates for the places of a page, in the order of the places: columns of equal length, and a sum."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "array"}})

    id: list[str]
    slot: list[int] = Field(description="Place of the page, from 1.")
    pctr: list[Probability] = Field(description="Click probability at that place. Other heads are further columns.")
    ecpm: list[float | None] = Field(description="As of the candidates, at that place; null without a bid.")
    total_ecpm: float | None = Field(description="Sum of all places; null if one of them has no bid.")


class Degraded(BaseModel):
    """Candidates, user, values and history with less than their own data; absent if there are none."""

    user: UserRung | None = Field(
        default=None,
        description="`unknown`: no row; `cached`: the last known row of the user or of the history.",
    )
    candidates: dict[str, Rung] | None = Field(
        default=None,
        description="By candidate: `cached` has its last known row; `encoded` has no row, but its text was encoded;"
        " `category_prior` has no row, only the request's features; `prior` has neither, or there was no time to"
        " score it, or its own score was not finite. An ad whose text is not encoded yet is scored without it, and"
        " may be `encoded` later.",
    )
    values: dict[str, Literal["unknown"]] | None = Field(
        default=None,
        description="Values that the model has never seen, perhaps misspelt, by their place in the request, as"
        " `context.hour`; they are scored as unknown. `items.features.NAME` stands for all items.",
    )
    history: int | None = Field(
        default=None,
        ge=1,
        description="Number of items of `user.history` that have no row; the scores do not depend on them.",
    )


class Shares(BaseModel):
    """Shapley values of the groups: log-odds by candidate, which sum to those of its pCTR less those of `base`."""

    semantic: list[float] = Field(description="The teacher's knowledge about user, item and history, as vectors.")
    id: list[float] = Field(description="What was learned about the IDs of user and item.")
    dense: list[float] = Field(description="Categories, numbers, counts and context.")
    history: list[float] = Field(description="The items that the user was shown, and which of them they clicked.")


class ExplainedHistory(BaseModel):
    """The history items that the model saw, oldest first, at most the latest 50."""

    id: list[str]
    effect: list[list[float]] = Field(
        description="By candidate and item: how much lower the candidate's log-odds would be without the item."
    )


class ExplanationReply(BaseModel):
    """The explanation of the scores, in the order of `candidates`."""

    base: Probability = Field(description="pCTR of an unknown ad for an unknown user and context.")
    shares: Shares
    history: ExplainedHistory


class ExploreReply(BaseModel):
    """Which candidate is to be shown first, and how it was chosen."""

    policy: Played = Field(
        description="As asked for; greedy if nothing can be explored, because the bundle has no uncertainty."
    )
    share: Probability = Field(description="Probability to explore.")
    seed: str = Field(description="Decides about the draw: the request's seed or ID.")
    explored: bool = Field(description="Whether the policy chose the first candidate, not its score alone.")
    first: str = Field(description="ID of the candidate to be shown first.")
    propensity: Probability = Field(description="Probability, before the draw, that it would be first.")


class ScoreReply(BaseModel):
    """The answer to a scoring request."""

    request_id: str
    model_version: str
    arm: str | None = Field(default=None, description="Arm of the experiment; absent without one.")
    candidates: ScoredCandidates
    degraded: Degraded | None = None
    explore: ExploreReply | None = Field(default=None, description="Present if the request says `explore`.")
    page: PageReply | None = Field(default=None, description="Present if the request says `page`.")
    explanation: ExplanationReply | None = Field(default=None, description="Present if the request says `explain`.")


def with_explanation(reply: bytes, explanation: Explanation, order: list[int]) -> bytes:
    """Return a reply's JSON with an explanation. `order`: the reply's candidates, by place in the request."""
    document = {
        "base": explanation.base,
        "shares": {group: share[order] for group, share in explanation.shares.items()},
        "history": {"id": explanation.history, "effect": explanation.effects[order].tolist()},
    }
    return b'%b,"explanation":%b}' % (reply[:-1], orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-odds [N], finite for 0 and 1 too."""
    within = np.clip(probability.astype(np.float64), _LEAST, 1.0 - _LEAST)
    return np.log(within) - np.log1p(-within)
