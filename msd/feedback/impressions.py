"""Shown impressions, joined with their request's scores and their clicks. Pure: tables in, a table and counts out.
Everything left out is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.correction import CONVERSIONS
from msd.feedback.files import ANONYMOUS_PREFIX, FeedbackError

_KEY = ["request_id", "item_id"]
_PAIR = ["user_id", "item_id"]


@dataclass(frozen=True)
class Windows:
    """Seconds in which an impression's click counts, and a click's conversion; and seconds for which an impression
    waits for either to arrive (`settle_s`, `conversion_settle_s`) before it is joined.

    Waiting starts when the service received the request. It ends by the log's latest request or by `now` (Unix s),
    whichever is earlier, so that one service's clock that is ahead ends nothing early. An impression that is
    later than `now` waits for that, too.
    """

    click_s: float = 86_400.0
    conversion_s: float = 30 * 86_400.0
    settle_s: float = 0.0
    conversion_settle_s: float = 0.0
    now: float = float("inf")


@dataclass(frozen=True)
class Joined:
    """One row an impression: request_id, user_id, item_id, at (unix s), arm, arm_share, pctr, pcvr and bid (null
    without), pricing (cpm, cpc or cpa), segments, label (0 or 1), click_after_s (seconds to its first click, null
    without one), sorted by time; with conversions, conversion (0 or 1) and converted_at (unix s); the numbers of events
    and requests, by outcome; and the time by which waiting ends (unix s)."""

    frame: pl.DataFrame
    told: Mapping[str, int]
    ends_at: float


def join(
    requests: Iterable[pl.DataFrame],
    events: pl.DataFrame,
    windows: Windows,
    keep: Sequence[str] = (),
    *,
    has_conversions: bool = False,
) -> Joined:
    """`requests` are the tables of one log or of several, one after the other. `keep`: further columns of requests that
    their impressions have, too. `has_conversions`: whether impressions have those columns even if no event is one.

    A request or an event whose ID comes twice counts once. Clicks that name no request belong to the latest impression
    of the same user and item before them, and conversions to the latest such click. Raises FeedbackError when not one
    impression can be told from the log, or none is settled.
    """
    told: dict[str, int] = {"events": events.height}
    distinct = events.unique(["type", "event_id"], keep="first", maintain_order=True).drop("event_id")
    told["repeated_events"] = events.height - distinct.height
    shown, clicks, conversions = (
        distinct.filter(pl.col("type") == kind) for kind in ("impression", "click", "conversion")
    )
    told |= {"impressions": shown.height, "clicks": clicks.height}
    impressions, latest = _impressions(shown, requests, told, ["received_at", *keep])
    if impressions.is_empty():
        raise FeedbackError(
            f"not one of {shown.height} impressions is of a logged request: events have to name the request_id of the"
            " reply that they came of, and its request has to be in the log"
        )
    joined = _label(impressions, clicks, windows.click_s, told)
    settle_s = windows.settle_s
    if conversions.height or has_conversions:
        joined = _convert(joined, conversions, windows.conversion_s, told)
        settle_s = max(settle_s, windows.conversion_settle_s)
    ends_at = min(latest, windows.now)
    # An event's time is its sender's: one of the future would make all that follows old.
    settled = joined.filter(pl.col("received_at") <= ends_at - settle_s, pl.col("at") <= windows.now)
    if settled.is_empty():
        raise FeedbackError(
            f"none of {joined.height} impressions is settled: the log spans less than the {settle_s / 3_600:g} hours"
            " that they wait for clicks and conversions; run it later, or wait less by --settle-hours"
        )
    told |= {"unsettled_impressions": joined.height - settled.height}
    told |= {"unsettled_clicks": int(joined["label"].sum()) - int(settled["label"].sum())}
    told |= {"joined_impressions": settled.height, "joined_clicks": int(settled["label"].sum())}
    told["anonymous_impressions"] = settled.filter(is_anonymous()).height
    return Joined(settled.sort("at", "request_id", "item_id"), told, ends_at)


def is_anonymous() -> pl.Expr:
    """Return whether each impression is of a user without an ID."""
    return pl.col("user_id").str.starts_with(ANONYMOUS_PREFIX)


def _impressions(
    shown: pl.DataFrame, requests: Iterable[pl.DataFrame], told: dict[str, int], keep: Sequence[str]
) -> tuple[pl.DataFrame, float]:
    """Return one row for each shown candidate of a logged request, and when the latest request was received."""
    named = shown.select(*_KEY, "at").filter(pl.col("request_id").is_not_null())
    once = named.sort("at").unique(_KEY, keep="first", maintain_order=True)
    told["impressions_without_request"] = shown.height - named.height
    told["repeated_impressions"] = named.height - once.height
    candidates, logged, latest = _candidates(requests, once, told, keep)
    found = once.join(candidates, on=_KEY, how="inner")
    unlogged = once.join(logged, on="request_id", how="anti").height
    told["impressions_not_logged"] = unlogged
    told["impressions_of_no_candidate"] = once.height - unlogged - found.height
    return found, latest


def _candidates(
    requests: Iterable[pl.DataFrame], shown: pl.DataFrame, told: dict[str, int], keep: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """Return the candidates of requests with shown candidates, once each; those requests' IDs; and when the latest
    request was received."""
    frames, ids, total, latest = [], [], 0, float("-inf")
    by_request, by_key = (np.unique(shown.select(columns).hash_rows().to_numpy()) for columns in ("request_id", _KEY))
    for file, frame in enumerate(requests):
        total += frame.height
        latest = max(latest, float(frame["received_at"].to_numpy().max(initial=latest)))
        distinct = frame.unique("request_id", keep="first", maintain_order=True)
        ids.append(distinct.select("request_id", file=pl.lit(file)))
        own = _exploded(distinct.filter(_is_among(distinct.select("request_id"), by_request)), keep)
        own = own.filter(_is_among(own.select(_KEY), by_key)).unique(_KEY, keep="first", maintain_order=True)
        frames.append(own.with_columns(file=pl.lit(file)))
    if not frames:
        raise FeedbackError("the log holds no requests")
    logged = pl.concat(ids).unique("request_id", keep="first", maintain_order=True)
    told["requests"], told["repeated_requests"] = total, total - logged.height
    candidates = pl.concat(frames)
    if total > logged.height:
        candidates = candidates.join(logged, on=["request_id", "file"], how="semi", maintain_order="left")
    return candidates.drop("file"), logged.drop("file"), latest


def _is_among(rows: pl.DataFrame, hashes: NDArray[np.uint64]) -> pl.Series:
    """Return which rows have one of the sorted `hashes`. A join would hash all events again for each file."""
    own = rows.hash_rows().to_numpy()
    places = np.searchsorted(hashes, own).clip(max=max(0, len(hashes) - 1))
    return pl.Series(hashes[places] == own if len(hashes) else np.zeros(len(own), bool))


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


def _label(impressions: pl.DataFrame, clicks: pl.DataFrame, window_s: float, told: dict[str, int]) -> pl.DataFrame:
    """Return the impressions with labels. The first of several clicks counts."""
    matched = _matched(clicks, impressions)
    timely = matched.filter(pl.col("after_s") <= window_s)
    clicked = timely.group_by(_KEY).agg(click_after_s=pl.col("after_s").min())
    told["clicks_without_impression"] = clicks.height - matched.height
    told["late_clicks"] = matched.height - timely.height
    told["repeated_clicks"] = timely.height - clicked.height
    return impressions.join(clicked.with_columns(label=pl.lit(1, pl.Int8)), on=_KEY, how="left").with_columns(
        pl.col("label").fill_null(0)
    )


def _convert(
    impressions: pl.DataFrame, conversions: pl.DataFrame, window_s: float, told: dict[str, int]
) -> pl.DataFrame:
    """Return the impressions with conversions of their clicks. The first of several counts."""
    clicks = impressions.filter(pl.col("label") == 1).with_columns(at=pl.col("at") + pl.col("click_after_s"))
    matched = _matched(conversions, clicks)
    timely = matched.filter(pl.col("after_s").is_between(0, window_s))
    converted = timely.group_by(_KEY).agg(converted_at=pl.col("happened_at").min())
    told |= {
        "conversions": conversions.height,
        "joined_conversions": converted.height,
        "conversions_without_click": conversions.height - matched.height,
        "conversions_outside_the_window": matched.height - timely.height,
        "repeated_conversions": timely.height - converted.height,
    }
    return impressions.join(converted, on=_KEY, how="left").with_columns(
        conversion=pl.col("converted_at").is_not_null().cast(pl.Int8)
    )


def _matched(events: pl.DataFrame, causes: pl.DataFrame) -> pl.DataFrame:
    """Return request_id and item_id of each event's cause, when it happened, and how long after its cause."""
    named = events.filter(pl.col("request_id").is_not_null()).select(*_KEY, pl.col("at").alias("happened_at"))
    nameless = events.filter(pl.col("request_id").is_null())
    by_request = named.join(causes.select(*_KEY, "at"), on=_KEY, how="inner")
    by_pair = (
        nameless.select(*_PAIR, pl.col("at").alias("happened_at"))
        .sort("happened_at")
        .join_asof(
            causes.select(*_PAIR, "request_id", "at").sort("at"),
            left_on="happened_at",
            right_on="at",
            by=_PAIR,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        .filter(pl.col("request_id").is_not_null())
    )
    return pl.concat([one.select(*_KEY, "happened_at", "at") for one in (by_request, by_pair)]).select(
        *_KEY, "happened_at", after_s=pl.col("happened_at") - pl.col("at")
    )
