"""The request log's records: of a scored request, enough to score it again to the same bits, and of an event.

A record's fields are the columns of the log's files, in order. Does not know how files are written.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.pricing import Pricing

REQUESTS, EVENTS = KINDS = ("requests", "events")
"""Prefixes of the two kinds of files; a dash, the time and `.parquet` follow."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One scored request. Rows are the packed records as they were served, with whatever live state was laid over them,
    so that their checksums need not fit; `items_found` and `items_stale` have a byte for each of them.

    `request` is the body as it came, `at` the time that was scored for, `history` the items of the
    user's impressions that counted, and `impressions` the time, impressions and clicks of each, one after the other.
    `arm_share` is the share of the users that the arm had then. `engine` names runtime, provider and precision;
    `scores` are [H][N] by `heads`, in the request's order, `served` the places of those that were returned, best first,
    where `top_k` asked for a ranking. `rungs` are [N], None of what was scored from its own fresh row; None where all
    were. `correction` is what pctr was corrected by (centre, shift and slope), and pcvr, if it was; None if scores are
    the model's own; `pricing` what bids are paid for, None if all for clicks. `explore` is the choice of the first
    candidate (the fields of `Choice`), None if the request did not explore. `segments` are those of the request.
    `is_shared`: candidates of other impressions were in the run too. Times in unix seconds, stages in milliseconds.
    """

    request_id: str
    received_at: float
    at: float
    arm: str
    arm_share: float
    model_version: str
    bundle_id: str
    manifest_sha256: str
    engine: str
    runtime_version: str
    instructions: str
    threads: int
    ran: int
    is_partial: bool
    is_shared: bool
    user_id: str
    request: bytes
    history: list[str]
    item_ids: list[str]
    bids: list[float | None] | None
    user_row: bytes
    user_found: bool
    user_stale: bool | None
    item_rows: bytes
    items_found: bytes
    items_stale: bytes | None
    heads: list[str]
    scores: list[NDArray[np.float32]]
    degraded_user: str | None
    rungs: list[str | None] | None
    served: list[int] | None
    parse_ms: float
    rows_ms: float
    queue_ms: float
    run_ms: float
    total_ms: float
    correction: list[float] | None = None
    pricing: list[Pricing] | None = None
    explore: dict[str, Any] | None = None
    impressions: list[float] | None = None
    """None in files of releases whose histories were clicks."""
    segments: list[str] | None = None
    slot: int | None = None
    """Place on the page, from 1, that the scores are for; None if the model knows no position."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One received event; duplicates are kept. Times in Unix seconds; a conversion's value in its currency."""

    event_id: str
    type: str
    user_id: str
    item_id: str
    at: float
    request_id: str | None
    received_at: float
    position: int | None = None
    """Place on the page where an impression was shown, from 1; None if it was not said."""
    value: float | None = None
    currency: str | None = None
