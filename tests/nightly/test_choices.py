"""Arms of a rollout are compared where the two bundles rank candidates differently, unless others differ, too."""

import json

import numpy as np
import polars as pl
import pytest

from msd.contract.bundle import Bundle
from msd.feedback.files import JUDGE_COLUMNS
from msd.feedback.gate import Check, Gate
from msd.feedback.scored_bundle import ScoredBundle
from msd.nightly.config import RolloutConfig
from msd.nightly.stage import Look, checks_of_arms
from msd.nightly.stage_log import Choices
from tests.bundles.factory import AT
from tests.feedback.made import requests

COUNT = 20_000


def gains(alike: float, differing: float) -> tuple[Check, Check]:
    """The check of the gain, and that of all requests, if the new arm has that many times the clicks of the old one, by
    kind of request."""
    rng = np.random.default_rng(0)
    is_new, differs = np.arange(COUNT) % 2 == 0, np.arange(COUNT) % 10 < 2
    lift = np.where(is_new, np.where(differs, differing, alike), 1.0)
    shown = pl.DataFrame(
        {
            "request_id": np.arange(COUNT).astype(str),
            "user_id": rng.integers(5_000, size=COUNT) * 2 + is_new,
            "arm": np.where(is_new, "new", "champion"),
            "label": (rng.random(COUNT) < 0.1 * lift).astype(np.int8),
            "bid": np.where(np.arange(COUNT) % 3, 1.0, 4.0),
            "pricing": "cpc",
            "pctr": 0.1,
            "total_ms": 1.0,
            # Of some requests nobody knows.
            "differs": pl.Series(differs.tolist()).set(pl.Series(np.arange(COUNT) % 50 > 47), None),
        }
    )
    look = Look(3_600.0, 2.0, False)
    found = (checks_of_arms(Gate(), RolloutConfig(), one, look)[1] for one in (shown, shown.drop("differs")))
    of_differing, of_all = found
    assert of_differing.name == of_all.name == "gain of revenue per request"
    return of_differing, of_all


def test_noise_of_requests_that_bundles_rank_alike_does_not_count() -> None:
    (better, of_all), (worse, _) = gains(1.0, 1.5), gains(1.0, 0.6)
    assert (better.outcome, of_all.outcome, worse.outcome) == ("holds", "unknown", "fails")
    assert "of the 21% of requests that the bundles rank differently" in better.bound
    assert better.figure == pytest.approx(0.1, abs=0.04), "as a share of what all requests earn"


def test_all_requests_count_where_arms_differ_without_a_reason() -> None:
    odd, of_all = gains(1.5, 0.7)
    assert (odd.outcome, odd.ci) == ("holds", of_all.ci)
    assert "arms earn differently where bundles rank alike" in odd.bound


def test_users_who_ask_most_do_not_decide() -> None:
    """20 users of each arm send a tenth of the requests, and click at all ads of the new bundle; others click less."""
    rng = np.random.default_rng(0)
    is_bot, is_new = np.arange(COUNT) % 10 == 0, np.arange(COUNT) // 10 % 2 == 0
    user = np.where(is_bot, 10_000 + 2 * rng.integers(20, size=COUNT), 2 * rng.integers(5_000, size=COUNT)) + is_new
    chance = np.where(is_bot, np.where(is_new, 0.9, 0.1), np.where(is_new, 0.08, 0.1))
    shown = pl.DataFrame(
        {
            "request_id": np.arange(COUNT).astype(str),
            "user_id": user,
            "arm": np.where(is_new, "new", "champion"),
            "label": (rng.random(COUNT) < chance).astype(np.int8),
            "bid": 1.0,
            "pricing": "cpc",
            "pctr": chance,
            "total_ms": 1.0,
        }
    )
    gain = checks_of_arms(Gate(), RolloutConfig(), shown, Look(3_600.0, 2.0, False))[1]
    of_people = shown.filter(~is_bot).group_by("arm").agg(pl.col("label").mean()).sort("arm")["label"]
    assert shown.group_by("arm").agg(pl.col("label").mean()).sort("arm")["label"].diff()[1] > 0.05, "if all count"
    assert of_people.diff()[1] < 0
    assert gain.outcome != "holds", str(gain)


def test_requests_are_scored_once_by_both_bundles(bundle: Bundle, other_bundle: Bundle) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        ids = [f"i{place}" for place in rng.choice(300, 3, replace=False)]
        body = json.dumps({"user_id": "u1", "candidates": {"id": ids}}).encode()
        rows.append({"request_id": f"r{number}", "item_ids": ids, "request": body, "at": AT, "bundle_id": "x"})
        rows[-1] |= {"bids": None, "scores": [[0.5] * 3]}
    logged = requests(*rows).with_columns(request=pl.Series([row["request"] for row in rows]))
    logged = logged.with_columns(pl.lit(None).alias(name) for name in JUDGE_COLUMNS if name not in logged.columns)
    shown = pl.DataFrame({"request_id": [row["request_id"] for row in rows]})
    old, new = ScoredBundle(bundle.folder), ScoredBundle(other_bundle.folder)
    both = [[one.score(row) for row in logged.iter_rows(named=True)] for one in (old, new)]
    expected = [bool(a["pctr"].argmax() != b["pctr"].argmax()) for a, b in zip(*both, strict=True) if a and b]
    choices = Choices((old, new))

    assert choices.mark(shown, [logged])["differs"].to_list() == expected
    assert 5 < sum(expected) < 35
    scored = len(old.seconds)
    whole = pl.concat([shown, shown])  # two places of the page are shown: their order counts, too
    assert choices.mark(shown, [logged])["differs"].to_list() == expected
    assert len(old.seconds) == scored == 80
    assert sum(Choices((old, new)).mark(whole, [logged])["differs"]) > 2 * sum(expected)
    few = Choices((old, new), most=10).mark(shown, [logged])["differs"]
    assert 0 < len(few) - few.null_count() < 25
    assert not any(Choices((old, old)).mark(shown, [logged])["differs"])
