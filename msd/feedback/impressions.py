"""Joins impressions with their requests' scores and their clicks, and counts what is left out. Does not know files.

Memory holds one part of the log: rows are distributed by event, by request and, for events that name no request, by
user and item.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from msd.contract.correction import CONVERSIONS
from msd.dataset.column import is_anonymous
from msd.dataset.mapped import Partitions, together
from msd.dataset.order import sort_blocks
from msd.feedback.files import FeedbackError
from msd.feedback.outcomes import KEY, PAIR, convert, label

_Groups = Iterable[tuple[pl.DataFrame, ...]]
"""Impressions, and the clicks and conversions that may be theirs."""


@dataclass(frozen=True)
class Windows:
    """Seconds in which an impression's click counts, and a click's conversion; and seconds for which an impression
    waits for either to arrive (`settle_s`, `conversion_settle_s`) before it is joined.

    Waiting starts when the service received the request. It ends by the log's latest request or by `now` (Unix s),
    whichever is earlier, so that one service's clock that is ahead ends nothing early. An impression that is
    later than `now` waits for that, too. Clicks after `new_since` (Unix s) are counted apart.
    """

    click_s: float = 86_400.0
    conversion_s: float = 30 * 86_400.0
    settle_s: float = 0.0
    conversion_settle_s: float = 0.0
    now: float = float("inf")
    new_since: float = float("inf")


@dataclass(frozen=True)
class Joined:
    """One row an impression: request_id, user_id, item_id, at (unix s), position (from 1, null if unknown), arm,
    arm_share, pctr, pcvr and bid (null without), pricing (cpm, cpc or cpa), segments, request_number (its place in the
    log), label (0 or 1), click_after_s (seconds to its first click, null without one); with conversions, conversion (0
    or 1), converted_at (unix s, of the first) and conversion_value (the sum, null if none has a value); sorted by at,
    request_id and item_id, in mapped files. The numbers of events and requests, by outcome; and the time by which
    waiting ends (unix s)."""

    frame: pl.DataFrame
    told: Mapping[str, int]
    ends_at: float


def join(
    requests: Iterable[pl.DataFrame],
    events: Iterable[pl.DataFrame],
    windows: Windows,
    keep: Sequence[str] = (),
    *,
    has_conversions: bool = False,
    describe: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Joined:
    """`requests` and `events` are the tables of one log or of several, one after the other. `keep`: further columns of
    requests that their impressions have, too; `describe` adds others to requests that may have impressions.
    `has_conversions`: whether impressions have those columns even if no event is one.

    A request or an event whose ID comes twice counts once. Clicks that name no request belong to the latest impression
    of the same user and item before them, and conversions to the latest such click; of two at one time, to that of the
    request whose ID is last. A conversion after an impression without a click is a view-through conversion: counted,
    but not joined. Raises FeedbackError when not one impression can be told from the log, none is settled, or values
    are in several currencies.
    """
    told = Counter[str]()
    shown = _Seen()
    named, nameless, has_conversion = _distinct(events, shown, told)
    candidates, logged, latest = _candidates(requests, shown, told, keep, describe)
    groups: _Groups = _found(named, candidates, logged, told)
    if nameless.heights.any():
        groups = _by_pair(groups, nameless)
    converts, settle_s, ends_at = has_conversions or has_conversion, windows.settle_s, min(latest, windows.now)
    if converts:
        settle_s = max(settle_s, windows.conversion_settle_s)
    settled = _settled(groups, windows, converts, ends_at - settle_s, told)
    frame = sort_blocks(settled, ("at", "request_id", "item_id"))
    found = told["unsettled_impressions"] + told["joined_impressions"]
    if not found:
        raise FeedbackError(
            f"not one of {told['impressions']} impressions is of a logged request: events have to name the request_id"
            " of the reply that they came of, and its request has to be in the log"
        )
    if frame.is_empty():
        raise FeedbackError(
            f"none of {found} impressions is settled: the log spans less than the {settle_s / 3_600:g} hours that they"
            " wait for clicks and conversions; run it later, or wait less by --settle-hours"
        )
    return Joined(frame, dict(told), ends_at)


class _Seen:
    """Keys that were added, and a few others: a Bloom filter of one hash."""

    def __init__(self) -> None:
        self._bits = np.zeros(2**25, np.uint8)

    def add(self, rows: pl.DataFrame) -> None:
        places = rows.hash_rows().to_numpy() % (8 * len(self._bits))
        np.bitwise_or.at(self._bits, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def of(self, rows: pl.DataFrame) -> pl.Series:
        """Return which rows may be among the keys; of others, some are."""
        places = rows.hash_rows().to_numpy() % (8 * len(self._bits))
        return pl.Series((self._bits[places >> 3] >> (places & 7)) & 1 > 0)


def _distinct(events: Iterable[pl.DataFrame], shown: _Seen, told: Counter[str]) -> tuple[Partitions, Partitions, bool]:
    """Return each event once, by the request that it names; clicks and conversions that name none, by user and item;
    and whether there are conversions. Note the requests and candidates that were shown."""
    by_id, named, nameless, has_conversion = Partitions("event_id"), Partitions("request_id"), Partitions(*PAIR), False
    currencies = set[str | None]()
    for frame in events:
        told["events"] += frame.height
        by_id.add(frame)
    for (rows,) in together(by_id):
        distinct = rows.unique(["type", "event_id"], keep="first", maintain_order=True).drop("event_id")
        kinds = {kind: distinct.filter(pl.col("type") == kind) for kind in ("impression", "click", "conversion")}
        told["repeated_events"] += rows.height - distinct.height
        told["impressions"] += kinds["impression"].height
        told["clicks"] += kinds["click"].height
        has_conversion |= not kinds["conversion"].is_empty()
        currencies |= set(kinds["conversion"].drop_nulls("value")["currency"])
        without, own = distinct.filter(pl.col("request_id").is_null()), kinds["impression"].drop_nulls("request_id")
        told["impressions_without_request"] += kinds["impression"].height - own.height
        shown.add(own.select("request_id"))
        shown.add(own.select(KEY))
        named.add(distinct.drop_nulls("request_id"))
        nameless.add(without.filter(pl.col("type") != "impression"))
    nameless.flush()
    if len(currencies) > 1:
        found = ", ".join(sorted(currency or "no currency" for currency in currencies))
        raise FeedbackError(
            f"values of conversions are in several currencies ({found}): send all in one, with its code"
        )
    return named, nameless, has_conversion


def _candidates(
    requests: Iterable[pl.DataFrame],
    shown: _Seen,
    told: Counter[str],
    keep: Sequence[str],
    describe: Callable[[pl.DataFrame], pl.DataFrame] | None,
) -> tuple[Partitions, Partitions, float]:
    """Return, by request, the candidates that may have been shown, and all requests' IDs; and when the latest request
    was received."""
    candidates, logged, latest = Partitions("request_id"), Partitions("request_id"), float("-inf")
    for frame in requests:
        numbered = frame.with_row_index("request_number", told["requests"])
        told["requests"] += frame.height
        latest = max(latest, float(frame["received_at"].to_numpy().max(initial=latest)))
        logged.add(numbered.select("request_id", "request_number"))
        own = numbered.filter(shown.of(numbered.select("request_id")))
        if describe is not None:
            own = describe(own)
        kept = ["received_at", *keep, "request_number", *own.columns[numbered.width :]]
        exploded = _exploded(own, kept)
        candidates.add(exploded.filter(shown.of(exploded.select(KEY))))
    if not told["requests"]:
        raise FeedbackError("the log holds no requests")
    return candidates, logged, latest


def _found(named: Partitions, candidates: Partitions, logged: Partitions, told: Counter[str]) -> _Groups:
    """Yield one row for each shown candidate of a logged request, and the clicks and conversions that name requests."""
    for events, listed, ids in together(named, candidates, logged):
        shown = events.filter(pl.col("type") == "impression")
        once = shown.group_by(KEY).agg(pl.col("at").min(), pl.col("position").sort_by("at").drop_nulls().first())
        first = ids.unique("request_id", keep="first", maintain_order=True)
        own = listed.join(first, on=["request_id", "request_number"], how="semi", maintain_order="left")
        found = once.join(own.unique(KEY, keep="first", maintain_order=True), on=KEY)
        unlogged = once.join(first, on="request_id", how="anti").height
        told["repeated_impressions"] += shown.height - once.height
        told["repeated_requests"] += ids.height - first.height
        told["impressions_not_logged"] += unlogged
        told["impressions_of_no_candidate"] += once.height - unlogged - found.height
        yield found, events.filter(pl.col("type") != "impression")


def _by_pair(groups: _Groups, nameless: Partitions) -> _Groups:
    """Return the groups' rows, and nameless events, by user and item. Those of an event are its impression's."""
    impressions = Partitions(*PAIR)
    for found, events in groups:
        impressions.add(found)
        nameless.add(events.update(found.select(*KEY, "user_id"), on=KEY))
    return together(impressions, nameless)


def _settled(
    groups: _Groups, windows: Windows, converts: bool, received_until: float, told: Counter[str]
) -> Iterator[pl.DataFrame]:
    """Yield the impressions that no longer wait, with their outcomes."""
    for impressions, events in groups:
        clicks, conversions = (events.filter(pl.col("type") == kind) for kind in ("click", "conversion"))
        joined = label(impressions, clicks, windows.click_s, windows.new_since, told)
        if converts:
            joined = convert(joined, conversions, windows.conversion_s, told)
        # An event's time is its sender's: one of the future would make all that follows old.
        settled = joined.filter(pl.col("received_at") <= received_until, pl.col("at") <= windows.now)
        clicked = int(settled["label"].sum())
        told["unsettled_impressions"] += joined.height - settled.height
        told["unsettled_clicks"] += int(joined["label"].sum()) - clicked
        told["joined_impressions"] += settled.height
        told["joined_clicks"] += clicked
        told["impressions_without_position"] += settled["position"].null_count()
        told["anonymous_impressions"] += settled.filter(is_anonymous()).height
        yield settled


def _exploded(requests: pl.DataFrame, keep: Sequence[str]) -> pl.DataFrame:
    per_click = pl.lit("cpc").repeat_by(pl.col("item_ids").list.len())
    is_second = pl.col("heads").list.get(1, null_on_oob=True) == CONVERSIONS if "heads" in requests.columns else False
    pcvr = pl.when(is_second).then(pl.col("scores").list.get(1, null_on_oob=True).cast(pl.List(pl.Float64)))
    by_user = pl.concat_list(pl.when(is_anonymous()).then(pl.lit("anonymous")).otherwise(pl.lit("known")))
    none = pl.lit(None, pl.Float64).repeat_by(pl.col("item_ids").list.len())
    return requests.select(
        "request_id",
        "user_id",
        "arm",
        "arm_share",
        pl.col("item_ids").alias("item_id"),
        pl.col("scores").list.first().cast(pl.List(pl.Float64)).alias("pctr"),
        pl.coalesce(pcvr, none).alias("pcvr"),
        pl.coalesce(pl.col("bids").cast(pl.List(pl.Float64)), none).alias("bid"),
        (pl.coalesce(pl.col("pricing"), per_click) if "pricing" in requests.columns else per_click).alias("pricing"),
        pl.coalesce(*([pl.col("segments")] if "segments" in requests.columns else []), by_user).alias("segments"),
        *keep,
    ).explode("item_id", "pctr", "pcvr", "bid", "pricing")
