"""The comparison of arms finds an effect that is there, seldom one that is not, and says how sure it is, by user."""

import math

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from msd.feedback.arms import Ratios, compare, ratio_mismatch
from msd.feedback.files import FeedbackError
from msd.feedback.impressions import Windows, join
from tests.feedback.made import traffic

Floats = NDArray[np.float64]
USERS = 1_500


def experiments(seed: int, count: int, lift: float) -> list[tuple[Floats, Floats]]:
    """Clicks and impressions [U, 2] of experiments whose users are alike within and unlike among themselves."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.5, 9.5, (count, USERS))
    shown = 1.0 + rng.poisson(4 + 100 * chance)
    arm = rng.integers(0, 2, (count, USERS))
    clicks = rng.binomial(shown.astype(int), np.minimum(1.0, chance * (1 + lift * arm))).astype(float)
    of_arm = np.stack([1 - arm, arm], axis=-1).astype(float)
    return list(zip(clicks[..., None] * of_arm, shown[..., None] * of_arm, strict=True))


def test_false_positives_are_at_the_nominal_rate() -> None:
    ps, naive = [], []
    for clicks, shown in experiments(1, 2_000, 0.0):
        ratios = Ratios.of(clicks, shown)
        p = ratios.difference(1).p
        assert p is not None
        ps.append(p)
        pooled = clicks.sum() / shown.sum()
        error = math.sqrt(pooled * (1 - pooled) * (1 / shown.sum(0)).sum())
        naive.append(abs(ratios.values[1] - ratios.values[0]) / error > 1.96)

    # Of 2,000 the share has a standard error of .005.
    assert 0.033 < np.mean(np.array(ps) < 0.05) < 0.067
    assert 0.004 < np.mean(np.array(ps) < 0.01) < 0.018
    assert np.mean(naive) > 0.1, "as if impressions had been drawn"


def test_effect_is_found_within_its_interval() -> None:
    found, covered, covered_relative = [], [], []
    for clicks, shown in experiments(2, 500, 0.5):
        one = Ratios.of(clicks, shown).difference(1)
        assert one.p is not None
        assert one.relative is not None
        found.append(one.p < 0.05)
        low, high = one.relative.ci95
        covered_relative.append(low <= 0.5 <= high)
        covered.append((one.p < 0.05) == (one.absolute.ci95[0] > 0 or one.absolute.ci95[1] < 0))

    assert np.mean(found) > 0.95
    assert 0.92 < np.mean(covered_relative) < 0.98
    assert all(covered)


def test_known_effect_of_simulated_traffic() -> None:
    requests, events = traffic(seed=3, users=6_000, lift=0.3, share=0.3)
    arms = compare(join([requests], [events], Windows(3_600.0)).frame, "champion")
    new = arms["new"]

    assert list(arms) == ["champion", "new"]
    assert new.users + arms["champion"].users == 6_000
    assert new.figures["ctr"].value == pytest.approx(new.clicks / new.impressions)
    assert new.figures["rpm"].value == pytest.approx(1_000 * new.revenue / new.impressions)
    assert new.figures["rpm"].value == pytest.approx(1_000 * new.figures["ctr"].value, rel=0.1), "bids are 1 on average"
    for metric in ("ctr", "rpm"):
        relative = new.differences[metric].relative if new.differences else None
        assert relative is not None
        assert 0 < relative.ci95[0] < 0.3 < relative.ci95[1]
    assert arms["champion"].differences is None


def test_compares_arms_without_clicks_or_bids() -> None:
    shown = {
        "request_id": ["r", "s"],
        "user_id": ["u", "v"],
        "arm": ["champion", "new"],
        "label": [0, 1],
        "pctr": [0.1, 0.2],
    }
    frame = pl.DataFrame(shown).with_columns(bid=pl.lit(None, pl.Float64), pricing=pl.lit("cpc"))
    arms = compare(frame, "champion")

    assert arms["champion"].predicted_over_observed is None
    assert (arms["new"].unpriced_clicks, arms["new"].revenue) == (1, 0.0)
    assert arms["new"].differences is not None
    assert arms["new"].differences["ctr"].relative is None
    with pytest.raises(FeedbackError, match="no impression belongs to the arm 'old'; there are: champion, new"):
        compare(frame, "old")


@pytest.mark.parametrize(("share", "is_right"), [(0.5, True), (0.45, False)])
def test_sample_ratio_mismatch_is_found(share: float, is_right: bool) -> None:
    requests, events = traffic(seed=5, users=6_000, lift=0.0, share=0.5)
    frame = join([requests], [events], Windows(3_600.0)).frame
    mismatch = ratio_mismatch(frame, {"champion": 1 - share, "new": share})

    assert mismatch.p is not None
    assert (mismatch.p > 0.001) == is_right
    assert (ratio_mismatch(frame, None).p or 0) > 0.001, "as it was logged"


def test_changed_shares_need_an_option() -> None:
    frame = pl.DataFrame({"user_id": ["u", "v", "w"], "arm": ["champion", "new", "new"], "arm_share": [0.5, 0.5, 0.1]})
    mismatch = ratio_mismatch(frame, None)

    assert mismatch.p is None
    assert "changed meanwhile" in mismatch.told
    with pytest.raises(FeedbackError, match="--shares lacks new"):
        ratio_mismatch(frame, {"champion": 1.0})
    assert ratio_mismatch(frame, {"champion": 1.0, "new": 0.0}).p == 0, "an arm has users that should have none"
    assert ratio_mismatch(frame.filter(pl.col("arm") == "new"), {"new": 1.0}).p is None


def test_revenue_follows_the_pricing() -> None:
    frame = pl.DataFrame(
        {
            "request_id": list("abcde"),
            "user_id": ["u", "u", "v", "v", "w"],
            "arm": ["champion"] * 5,
            "label": [0, 1, 1, 1, 1],
            "conversion": [0, 0, 1, 0, 1],
            "bid": [4.0, 0.5, 20.0, 30.0, None],
            "pctr": [0.1] * 5,
            "pricing": ["cpm", "cpc", "cpa", "cpa", "cpa"],
        }
    )
    found = compare(frame, "champion")["champion"]

    assert found.revenue == pytest.approx(0.004 + 0.5 + 20.0)
    assert found.figures["rpm"].value == pytest.approx(1_000 * found.revenue / 5)
    assert compare(frame.drop("conversion"), "champion")["champion"].revenue == pytest.approx(0.504)


def test_users_in_both_arms_count_in_both() -> None:
    shown = np.full((400, 2), 10.0)
    clicks = np.repeat(np.random.default_rng(0).binomial(10, 0.3, (400, 1)).astype(float), 2, axis=1)
    one = Ratios.of(clicks, shown).difference(1)

    assert one.absolute.value == 0
    assert one.absolute.ci95 == (0, 0)
    assert one.p is None
