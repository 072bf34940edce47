"""What a bid is worth, by what it is paid for."""

import numpy as np
import pytest

from msd.contract.pricing import PRICED, ecpm_of


def test_each_bid_is_worth_what_its_pricing_says() -> None:
    scores = {
        "pctr": np.array([0.1, 0.02, 0.04, 0.9], np.float32),
        "pcvr": np.array([0.9, 0.5, 0.025, 0.9], np.float32),
    }
    found = ecpm_of([7.0, 0.5, 20.0, None], ["cpm", "cpc", "cpa", "cpa"], scores, PRICED)

    assert found[:3] == pytest.approx([7.0, 1000 * 0.5 * 0.02, 1000 * 20 * 0.04 * 0.025])
    assert np.isnan(found[3])


def test_all_per_click_is_to_the_bit_as_without_pricing() -> None:
    rng = np.random.default_rng(3)
    scores, bids = {"pctr": rng.random(50, np.float32)}, rng.uniform(0, 9, 50).tolist()

    assert np.array_equal(ecpm_of(bids, ["cpc"] * 50, scores, PRICED), ecpm_of(bids, None, scores, PRICED))
