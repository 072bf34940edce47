"""Shown impressions, joined with their request's scores and their clicks. Pure: tables in, a table and counts out.
Everything left out is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from msd.feedback.files import FeedbackError

_KEY = ["request_id", "item_id"]
_PAIR = ["user_id", "item_id"]
CONVERSION_S = 30 * 86_400.0


@dataclass(frozen=True)
class Joined:
    """One row an impression: request_id, user_id, item_id, at (unix s), arm, arm_share, pctr, bid (null without one),
    pricing (cpm, cpc or cpa), label (0 or 1), click_after_s (seconds to its first click, null without one), sorted by
    time; if there are conversion events, conversion (0 or 1) and converted_at (unix s); and the numbers of events and
    requests, by outcome."""

    frame: pl.DataFrame
    told: Mapping[str, int]


def join(
    requests: Iterable[pl.DataFrame],
    events: pl.DataFrame,
    window_s: float,
    keep: Sequence[str] = (),
    conversion_s: float = CONVERSION_S,
) -> Joined:
    """`requests` are a log's tables, one after the other; a click counts up to `window_s` after its impression.
    `keep`: further columns of requests that their impressions have, too. A conversion counts up to `conversion_s` after
    its click: that of its request, or if it names none, the latest click of the same user and item before it.

    An event id that comes twice counts once. Clicks that name no request belong to the latest impression of the same
    user and item before them. Raises FeedbackError when not one impression can be told from the log.
    """
    told: dict[str, int] = {"events": events.height}
    distinct = events.unique(["type", "event_id"], keep="first", maintain_order=True)
    told["repeated_events"] = events.height - distinct.height
    shown = distinct.filter(pl.col("type") == "impression")
    clicks = distinct.filter(pl.col("type") == "click")
    told |= {"impressions": shown.height, "clicks": clicks.height}
    impressions = _impressions(shown, requests, told, keep)
    if impressions.is_empty():
        raise FeedbackError(
            f"not one of {shown.height} impressions is of a logged request: events have to name the request_id of the"
            " reply that they came of, and its request has to be in the log"
        )
    labelled = _label(impressions, clicks, window_s, told)
    told |= {"joined_impressions": labelled.height, "joined_clicks": int(labelled["label"].sum())}
    conversions = distinct.filter(pl.col("type") == "conversion")
    if conversions.height:
        labelled = _convert(labelled, conversions, conversion_s, told)
    return Joined(labelled.sort("at", "request_id", "item_id"), told)


def _impressions(
    shown: pl.DataFrame, requests: Iterable[pl.DataFrame], told: dict[str, int], keep: Sequence[str]
) -> pl.DataFrame:
    """Return one row for each shown candidate of a logged request."""
    named = shown.filter(pl.col("request_id").is_not_null())
    once = named.sort("at").unique(_KEY, keep="first", maintain_order=True)
    told["impressions_without_request"] = shown.height - named.height
    told["repeated_impressions"] = named.height - once.height
    candidates, logged = _candidates(requests, once, told, keep)
    found = once.select(*_KEY, "at").join(candidates, on=_KEY, how="inner")
    unlogged = once.join(logged, on="request_id", how="anti").height
    told["impressions_not_logged"] = unlogged
    told["impressions_of_no_candidate"] = once.height - unlogged - found.height
    return found


def _candidates(
    requests: Iterable[pl.DataFrame], shown: pl.DataFrame, told: dict[str, int], keep: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the candidates of requests with shown candidates, once each; and those requests' IDs."""
    frames, seen, total, repeated = [], pl.DataFrame(schema={"request_id": pl.String}), 0, 0
    wanted = shown.select("request_id").unique()
    for frame in requests:
        total += frame.height
        first = frame.unique("request_id", keep="first", maintain_order=True).join(seen, on="request_id", how="anti")
        repeated += frame.height - first.height
        seen = pl.concat([seen, first.select("request_id")])
        frames.append(_exploded(first.join(wanted, on="request_id", how="semi"), keep))
    told["requests"], told["repeated_requests"] = total, repeated
    if not frames:
        raise FeedbackError("the log holds no requests")
    candidates = pl.concat(frames).unique(_KEY, keep="first", maintain_order=True)
    return candidates, seen


def _exploded(requests: pl.DataFrame, keep: Sequence[str]) -> pl.DataFrame:
    per_click = pl.lit("cpc").repeat_by(pl.col("item_ids").list.len())
    no_bids = pl.lit(None, pl.Float64).repeat_by(pl.col("item_ids").list.len())
    return requests.select(
        "request_id",
        "user_id",
        "arm",
        "arm_share",
        pl.col("item_ids").alias("item_id"),
        pl.col("scores").list.first().cast(pl.List(pl.Float64)).alias("pctr"),
        pl.coalesce(pl.col("bids").cast(pl.List(pl.Float64)), no_bids).alias("bid"),
        (pl.coalesce(pl.col("pricing"), per_click) if "pricing" in requests.columns else per_click).alias("pricing"),
        *keep,
    ).explode("item_id", "pctr", "bid", "pricing")


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
