"""Logs and events made up for tests: a few by hand, and traffic whose effect is known."""

from typing import Any

import numpy as np
import polars as pl

from msd.feedback.files import EVENT_TYPES


def requests(*rows: dict[str, Any]) -> pl.DataFrame:
    """Logged requests: what is not given is as of a request r of user u for the items a and b, at 1,000 s."""
    whole = [
        {
            "request_id": "r",
            "bundle_id": 32 * "b",
            "received_at": 1_000.0,
            "at": 1_000.0,
            "arm": "champion",
            "arm_share": 1.0,
            "user_id": "u",
            "item_ids": ["a", "b"],
            "bids": [2.0, None],
            "scores": [[0.1, 0.2], [0.5, 0.5]],
            **row,
        }
        for row in rows
    ]
    lists: dict[str, Any] = {"bids": pl.List(pl.Float64), "scores": pl.List(pl.List(pl.Float32))}
    return pl.DataFrame(whole, schema_overrides=lists)


def events(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """Events as (type, item, at, request), of user u, with ids by their place; a fifth value is an event id, a sixth
    the position."""
    return pl.DataFrame(
        [
            {
                "event_id": row[4] if len(row) > 4 else f"e{place}",
                "type": row[0],
                "user_id": "u",
                "item_id": row[1],
                "at": float(row[2]),
                "request_id": row[3],
                "position": row[5] if len(row) > 5 else None,
            }
            for place, row in enumerate(rows)
        ],
        schema=EVENT_TYPES,
    )


def traffic(
    seed: int, users: int, lift: float, share: float = 0.5, rate: float = 0.05
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Requests and events of users of whom each has an arm, a click rate of his own, and more impressions the more he
    clicks; the challenger's rate is `1 + lift` times the champion's, its bids the same."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(2, 2 / rate - 2, users)
    shown = 1 + rng.poisson(4 + 100 * chance)
    user = np.repeat(np.arange(users), shown)
    is_new = (rng.random(users) < share)[user]
    clicked = rng.random(len(user)) < chance[user] * np.where(is_new, 1 + lift, 1.0)
    bids = rng.uniform(0.2, 1.8, len(user))
    names = np.array([f"u{one}" for one in range(users)])[user]
    ids = [f"r{place}" for place in range(len(user))]
    at = rng.uniform(0, 86_400, len(user))
    frame = pl.DataFrame(
        {
            "request_id": ids,
            "received_at": at,
            "at": at,
            "arm": np.where(is_new, "new", "champion"),
            "arm_share": np.where(is_new, share, 1 - share),
            "user_id": names,
            "item_ids": pl.Series([["a"]]).new_from_index(0, len(user)),
            "bids": pl.Series(bids).reshape((-1, 1)).arr.to_list(),
            "scores": pl.Series([[[rate]]], dtype=pl.List(pl.List(pl.Float32))).new_from_index(0, len(user)),
        }
    )
    base = pl.DataFrame({"user_id": names, "item_id": "a", "at": at + 1, "request_id": ids})
    nowhere = pl.lit(None, pl.Int32)
    impressions = base.with_columns(event_id=pl.col("request_id"), type=pl.lit("impression"), position=nowhere)
    clicks = impressions.filter(pl.Series(clicked)).with_columns(type=pl.lit("click"), at=pl.col("at") + 30)
    return frame, pl.concat([pl.DataFrame(schema=EVENT_TYPES), impressions, clicks], how="diagonal")
