"""Clicks of impressions, and conversions of clicks: which outcome belongs to which cause. Counts those of none."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import polars as pl

KEY = ["request_id", "item_id"]
PAIR = ["user_id", "item_id"]
EARLY, UNJOINED = "clicks_before_their_impression", "clicks_without_impression"


def say_unjoined(told: Mapping[str, int]) -> str:
    """Return how many clicks join no impression, and what to do."""
    return (
        f"of {told['clicks']} clicks {told[EARLY]} came before the impression of their user and item, and"
        f" {told[UNJOINED]} have none: send each click with the request_id of its impression, and compare the clocks"
    )


def label(
    impressions: pl.DataFrame, clicks: pl.DataFrame, window_s: float, new_since: float, told: Counter[str]
) -> pl.DataFrame:
    """Return the impressions with labels. The first of several clicks counts. Clicks
    after `new_since` (Unix s) are also counted apart."""
    matched = _matched(clicks, impressions)
    timely = matched.filter(pl.col("after_s") <= window_s)
    clicked = timely.group_by(KEY).agg(click_after_s=pl.col("after_s").min())
    early = _early(clicks, impressions, window_s)
    unjoined = clicks.height - matched.height + int(early["has_older"].sum())
    told[EARLY] += early.height
    told[UNJOINED] += unjoined - early.height
    told["late_clicks"] += clicks.height - timely.height - unjoined
    new, new_matched, new_early = (
        rows.filter(pl.col(at) > new_since) for rows, at in ((clicks, "at"), (matched, "happened_at"), (early, "at"))
    )
    told["new_clicks"] += new.height
    told["new_unjoined_clicks"] += new.height - new_matched.height + int(new_early["has_older"].sum())
    told["repeated_clicks"] += timely.height - clicked.height
    return impressions.join(clicked.with_columns(label=pl.lit(1, pl.Int8)), on=KEY, how="left").with_columns(
        pl.col("label").fill_null(0)
    )


def convert(impressions: pl.DataFrame, conversions: pl.DataFrame, window_s: float, told: Counter[str]) -> pl.DataFrame:
    """Return the impressions with conversions of their clicks: when the first of several came, and the sum of their
    values."""
    clicks = impressions.filter(pl.col("label") == 1).with_columns(at=pl.col("at") + pl.col("click_after_s"))
    matched = _matched(conversions, clicks)
    timely = matched.filter(pl.col("after_s").is_between(0, window_s))
    worth = pl.when(pl.col("value").count() > 0).then(pl.col("value").sum())
    converted = timely.group_by(KEY).agg(converted_at=pl.col("happened_at").min(), conversion_value=worth)
    told["conversions"] += conversions.height
    told["joined_conversions"] += converted.height
    view_through = _matched(conversions, impressions).height - matched.height
    told["view_through_conversions"] += view_through
    told["conversions_without_impression"] += conversions.height - matched.height - view_through
    told["conversions_outside_the_window"] += matched.height - timely.height
    told["repeated_conversions"] += timely.height - converted.height
    return impressions.join(converted, on=KEY, how="left").with_columns(
        conversion=pl.col("converted_at").is_not_null().cast(pl.Int8)
    )


def _early(clicks: pl.DataFrame, impressions: pl.DataFrame, window_s: float) -> pl.DataFrame:
    """Return the clicks that name no request and precede an impression of their user and item by `window_s` at most,
    with none as close before them: a clock is wrong. `has_older`: whether there is an older impression."""
    found = clicks.filter(pl.col("request_id").is_null()).select(*PAIR, "at").sort("at")
    strategies: tuple[tuple[str, Literal["backward", "forward"]], ...] = (("before", "backward"), ("after", "forward"))
    for name, strategy in strategies:
        shown = impressions.select(*PAIR, pl.col("at").alias(name)).sort(name)
        found = found.join_asof(
            shown, left_on="at", right_on=name, by=PAIR, strategy=strategy, coalesce=False, check_sortedness=False
        )
    is_far = (pl.col("at") - pl.col("before") > window_s).fill_null(True)
    return found.filter(is_far, pl.col("after") - pl.col("at") <= window_s).select(
        "at", has_older=pl.col("before").is_not_null()
    )


def _matched(events: pl.DataFrame, causes: pl.DataFrame) -> pl.DataFrame:
    """Return request_id and item_id of each event's cause, when it happened, how late that was, and its value."""
    named = events.filter(pl.col("request_id").is_not_null()).select(*KEY, pl.col("at").alias("happened_at"), "value")
    nameless = events.filter(pl.col("request_id").is_null())
    by_request = named.join(causes.select(*KEY, "at"), on=KEY, how="inner")
    by_pair = (
        nameless.select(*PAIR, pl.col("at").alias("happened_at"), "value")
        .sort("happened_at")
        .join_asof(
            causes.select(*PAIR, "request_id", "at").sort("at", "request_id"),
            left_on="happened_at",
            right_on="at",
            by=PAIR,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        .filter(pl.col("request_id").is_not_null())
    )
    return pl.concat([one.select(*KEY, "happened_at", "at", "value") for one in (by_request, by_pair)]).select(
        *KEY, "happened_at", "value", after_s=pl.col("happened_at") - pl.col("at")
    )
