"""Which click belongs to which impression, and that every event is counted, whatever became of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from msd.dataset import mapped, order
from msd.feedback.files import FeedbackError
from msd.feedback.impressions import Joined, Windows, join
from msd.feedback.outcomes import say_unjoined
from tests.feedback import made
from tests.feedback.made import requests

HOUR = Windows(3_600.0)


def events(*rows: tuple[object, ...]) -> list[pl.DataFrame]:
    """Events in two files."""
    return [made.events(*rows)[:3], made.events(*rows)[3:]]


def labels(joined: Joined) -> dict[str, int]:
    return {f"{row['request_id']}/{row['item_id']}": row["label"] for row in joined.frame.iter_rows(named=True)}


def test_impression_has_its_requests_scores() -> None:
    joined = join(
        [requests({"arm": "new", "arm_share": 0.1})],
        events(("impression", "a", 1_001, "r"), ("click", "a", 1_050, "r"), ("impression", "b", 1_002, "r")),
        HOUR,
    )
    first, second = joined.frame.iter_rows(named=True)

    assert (first["item_id"], first["label"], first["bid"], first["arm"]) == ("a", 1, 2.0, "new")
    assert (second["item_id"], second["label"], second["bid"], second["arm_share"]) == ("b", 0, None, 0.1)
    assert [first["pctr"], second["pctr"]] == pytest.approx([0.1, 0.2])
    assert "conversion" not in joined.frame.columns
    assert "conversions" not in joined.told


def test_late_repeated_and_foreign_events_are_counted() -> None:
    joined = join(
        [requests({"scores": [[0.1, 0.2]]}), requests({"request_id": "s"}, {"request_id": "r", "arm": "other"})],
        events(
            ("impression", "a", 1_001, "r"),
            ("impression", "a", 1_001, "r", "e0"),
            ("impression", "a", 1_009, "r"),
            ("click", "a", 1_002, "r"),
            ("click", "a", 1_003, "r"),
            ("impression", "b", 1_001, "s"),
            ("click", "b", 4_601 + 1, "s"),
            ("impression", "a", 1_001, "never logged"),
            ("impression", "c", 1_001, "s"),
            ("impression", "a", 1_001, None),
            ("click", "a", 1_002, "never logged"),
            ("click", "c", 1_002, "s"),
        ),
        HOUR,
    )

    assert labels(joined) == {"r/a": 1, "s/b": 0}
    assert joined.frame["arm"].to_list() == ["champion", "champion"]
    assert joined.told == {
        "events": 12,
        "repeated_events": 1,
        "impressions": 6,
        "clicks": 5,
        "impressions_without_request": 1,
        "repeated_impressions": 1,
        "requests": 3,
        "repeated_requests": 1,
        "impressions_not_logged": 1,
        "impressions_of_no_candidate": 1,
        "clicks_before_their_impression": 0,
        "clicks_without_impression": 2,
        "new_clicks": 0,
        "new_unjoined_clicks": 0,
        "late_clicks": 1,
        "repeated_clicks": 1,
        "joined_impressions": 2,
        "joined_clicks": 1,
        "unsettled_impressions": 0,
        "unsettled_clicks": 0,
        "impressions_without_position": 2,
        "anonymous_impressions": 0,
    }


def test_position_is_that_of_the_first_impression_which_says_one() -> None:
    rows = [
        ("impression", "a", 1_002, "r", "late", 4),
        ("impression", "a", 1_000, "r", "first"),
        ("impression", "a", 1_001, "r", "second", 3),
        ("impression", "b", 1_000, "r", "silent"),
        ("click", "b", 1_001, "r", "c", 2),
    ]
    joined = join([requests({})], [made.events(*rows)], HOUR)

    assert joined.frame.select("item_id", "at", "position").rows() == [("a", 1_000, 3), ("b", 1_000, None)]
    assert joined.told["impressions_without_position"] == 1


def test_clicks_at_the_windows_edges_count() -> None:
    shown = (("impression", "a", 1_001, "r"), ("impression", "b", 1_001, "r"))
    joined = join([requests({})], events(*shown, ("click", "a", 4_601, "r"), ("click", "b", 999, "r")), HOUR)
    assert labels(joined) == {"r/a": 1, "r/b": 1}


def test_nameless_click_is_of_the_latest_impression() -> None:
    log = requests({}, {"request_id": "s"}, {"request_id": "t"}, {"request_id": "v", "user_id": "other"})
    joined = join(
        [log],
        events(
            ("impression", "a", 1_000, "r"),
            ("impression", "a", 2_000, "s"),
            ("impression", "a", 9_000, "t"),
            ("impression", "a", 2_050, "v"),
            ("click", "a", 2_100, None),
            ("click", "b", 2_100, None),
            ("click", "a", 500, None),
        ),
        HOUR,
    )

    assert labels(joined) == {"r/a": 0, "s/a": 1, "t/a": 0, "v/a": 0}
    assert (joined.told["clicks_without_impression"], joined.told["clicks_before_their_impression"]) == (1, 1)


def test_early_clicks_are_counted_and_join_by_their_request_alone() -> None:
    """A click an hour early that names no request is lost; one that names it joins, however early its clock."""
    log = requests(*({"request_id": one} for one in "rsu"), {"request_id": "t", "user_id": "other"})
    shown = [("impression", item, at, of) for item, at, of in (("a", 5_000, "r"), ("b", 5_000, "s"), ("a", 100, "u"))]
    nameless = [("click", item, at, None) for item, at in (("a", 3_800), ("b", 1_400), ("b", 1_399), ("b", 8_601))]
    rows = [*shown, ("impression", "a", 5_000, "t"), *nameless, ("click", "b", 1_400, "s")]
    joined = join([log], events(*rows), replace(HOUR, new_since=1_399.5))
    told = joined.told

    assert labels(joined) == {"r/a": 0, "s/b": 1, "u/a": 0, "t/a": 0}
    assert (told["joined_clicks"], told["clicks_before_their_impression"]) == (1, 2)
    assert (told["late_clicks"], told["clicks_without_impression"], told["repeated_clicks"]) == (1, 1, 0)
    assert (told["new_clicks"], told["new_unjoined_clicks"]) == (4, 2)
    assert "of 5 clicks 2 came before the impression of their user and item, and 1 have none" in say_unjoined(told)


def test_rejects_events_without_requests() -> None:
    with pytest.raises(FeedbackError, match="not one of 1 impressions is of a logged request"):
        join([requests({})], events(("impression", "a", 1, "other")), HOUR)
    with pytest.raises(FeedbackError, match="the log holds no requests"):
        join([], events(("impression", "a", 1, "r")), HOUR)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["impression", "click"]),
            st.sampled_from("abc"),
            st.integers(990, 1_100),
            st.sampled_from(["r", "s", "x", None]),
            st.sampled_from([f"e{place}" for place in range(8)]),
        ),
        max_size=25,
    ),
    st.randoms(use_true_random=False),
)
def test_every_event_is_counted_once(rows: list[tuple[object, ...]], random: object) -> None:
    rows = [("impression", "a", 1_000, "r", "sure"), *rows]
    log = [requests({}, {"request_id": "s"})]
    joined = join(log, events(*rows), Windows(60.0))
    told = joined.told

    assert told["events"] - told["repeated_events"] == told["impressions"] + told["clicks"]
    unused = ("impressions_without_request", "impressions_not_logged", "impressions_of_no_candidate")
    for kind, ends in (
        ("impressions", unused),
        ("clicks", ("clicks_before_their_impression", "clicks_without_impression", "late_clicks")),
    ):
        assert told[kind] == sum(told[name] for name in (*ends, f"repeated_{kind}", f"joined_{kind}"))
    assert joined.frame.select(pl.struct("request_id", "item_id").is_unique().all()).item()


def test_a_log_joined_by_parts_is_that_joined_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    named = [
        {"request_id": f"r{n}", "user_id": f"u{n % 3}", "received_at": 1_000.0 + n} for n in rng.integers(90, size=120)
    ]
    log = [requests(*rows) for rows in (named[:50], named[50:])]
    kinds, items, ids = (
        rng.choice(of, 600) for of in (["impression", "click", "conversion"], list("abc"), [f"r{n}" for n in range(99)])
    )
    at = 1_000 + 200 * rng.random(600)
    shown = [
        made.events(*zip(kinds[part], items[part], at[part], ids[part], strict=True)).with_columns(
            pl.when(pl.Series(rng.random(300) < 0.8)).then("request_id"),
            user_id=pl.Series(rng.choice(["u0", "u1", "u2"], 300)),
        )
        for part in (slice(300), slice(300, None))
    ]  # events of both have the same IDs
    windows = Windows(80.0, 90.0, 5.0, 10.0, now=1_190.0)
    whole = join(log, shown, windows)
    monkeypatch.setattr(mapped, "_TOGETHER", 8)
    monkeypatch.setattr(order, "BLOCK", 8)
    parts = join(log, shown, windows)

    assert parts.frame.n_chunks() > 2 >= whole.frame.n_chunks()
    assert_frame_equal(parts.frame, whole.frame)
    assert (parts.told, parts.ends_at) == (whole.told, whole.ends_at)
    assert [name for name, count in whole.told.items() if not count] == [
        "new_clicks",
        "new_unjoined_clicks",
        "anonymous_impressions",
    ]


def test_conversions_belong_to_clicks() -> None:
    joined = join(
        [requests({"pricing": ["cpa", "cpm"]}, {"request_id": "s"}, {"request_id": "t"})],
        events(
            *(("impression", "a", at, of) for at, of in ((1_000, "r"), (2_000, "s"), (3_000, "t"))),
            ("impression", "b", 1_000, "r"),
            *(("click", "a", at, of) for at, of in ((1_010, "r"), (2_010, "s"))),
            ("conversion", "a", 1_500, "r"),
            ("conversion", "a", 1_600, "r"),
            ("conversion", "a", 2_500, None),
            ("conversion", "a", 2_500, None, "e8"),
            ("conversion", "b", 1_500, "r"),
            ("conversion", "a", 500, None),
            ("conversion", "a", 2_010 + 3_601, "s"),
            ("conversion", "a", 2_000, "s"),
        ),
        Windows(3_600.0, 3_600.0),
    )
    found = {
        f"{row['request_id']}/{row['item_id']}": (row["pricing"], row["label"], row["conversion"], row["converted_at"])
        for row in joined.frame.iter_rows(named=True)
    }

    assert found == {
        "r/a": ("cpa", 1, 1, 1_500.0),
        "r/b": ("cpm", 0, 0, None),
        "s/a": ("cpc", 1, 1, 2_500.0),
        "t/a": ("cpc", 0, 0, None),
    }
    assert {name: count for name, count in joined.told.items() if "conversions" in name} == {
        "conversions": 7,
        "joined_conversions": 2,
        "view_through_conversions": 1,
        "conversions_without_impression": 1,
        "conversions_outside_the_window": 2,
        "repeated_conversions": 1,
    }
    assert joined.told["repeated_events"] == 1


def worth(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """An impression of each candidate, a click of the first, and its conversions: value, currency and time."""
    shown = [("impression", item, 1_000, "r") for item in "ab"]
    told = made.events(*shown, ("click", "a", 1_010, "r"), *(("conversion", "a", 1_020 + row[2], "r") for row in rows))
    values, currencies = ([None] * 3 + [row[place] for row in rows] for place in (0, 1))
    return told.with_columns(value=pl.Series(values, dtype=pl.Float64), currency=pl.Series(currencies, dtype=pl.String))


def test_values_of_all_conversions_of_a_click_are_added() -> None:
    rows = [(2.5, "EUR", 0), (None, None, 1), (4, "EUR", 2), (100, "EUR", 9_000)]
    joined = join([requests({})], worth(*rows).iter_slices(2), Windows(3_600.0, 3_600.0))
    found = joined.frame.select("item_id", "conversion", "converted_at", "conversion_value").rows()

    assert sorted(found) == [("a", 1, 1_020.0, 6.5), ("b", 0, None, None)]
    assert (joined.told["repeated_conversions"], joined.told["conversions_outside_the_window"]) == (2, 1)
    valueless = join([requests({})], [worth((None, None, 0))], Windows(3_600.0, 3_600.0)).frame
    assert valueless.sort("item_id").select("conversion", "conversion_value").rows() == [(1, None), (0, None)]


@pytest.mark.parametrize("other", ["USD", None])
def test_values_in_several_currencies_are_refused(other: str | None) -> None:
    with pytest.raises(FeedbackError, match=f"several currencies .EUR, {other or 'no currency'}.: send all in one"):
        join([requests({})], [worth((2.5, "EUR", 0), (250, other, 1))], Windows(3_600.0, 3_600.0))


def test_impressions_wait_for_clicks_and_longer_for_conversions() -> None:
    log = requests({}, {"request_id": "s", "received_at": 5_000.0}, {"request_id": "t", "received_at": 9e9})
    rows = [("impression", "a", 1_001, "r"), ("click", "a", 1_002, "r"), ("impression", "a", 5_001, "s")]
    windows = Windows(3_600.0, settle_s=3_600.0, conversion_settle_s=7_000.0, now=8_000.0)
    joined = join([log], events(*rows, ("click", "a", 5_002, "s")), windows)

    # A service whose clock is ahead settles nothing.
    assert labels(joined) == {"r/a": 1}
    ahead = join([log], events(*rows, ("impression", "b", 1e11, "r")), windows)
    assert labels(ahead) == {"r/a": 1}, "an event of the future waits"
    assert (joined.told["unsettled_impressions"], joined.told["unsettled_clicks"]) == (1, 1)
    assert join([log], events(*rows), windows, has_conversions=True).frame["conversion"].to_list() == [0]
    with pytest.raises(FeedbackError, match="none of 2 impressions is settled"):
        join([log], events(*rows, ("conversion", "a", 1_009, "r")), replace(windows, conversion_settle_s=8_000.0))
