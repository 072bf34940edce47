"""The simulation loses least with the prior that knows most, and nothing where nothing can be lost."""

import numpy as np

from tests.lab.benchmark.regret import Prior, lost_clicks


def test_a_better_prior_loses_less() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(-1.0, 0.7, 60)
    rates = 1 / (1 + np.exp(-true))
    priors = {
        "exact": Prior.of(true, 0.05),
        "rough": Prior.of(true + rng.normal(0, 0.5, 60), 0.5),
        "none": Prior.of(np.full(60, -1.0), 0.7),
    }
    lost = {
        name: lost_clicks(prior, rates, runs=60, at_once=10, after=(50, 300)).mean(1) for name, prior in priors.items()
    }

    assert lost["exact"][1] < lost["rough"][1] < lost["none"][1]
    assert lost["none"][0] < lost["none"][1]


def test_equal_ads_lose_nothing() -> None:
    lost = lost_clicks(Prior(np.ones(5), np.ones(5)), np.full(5, 0.2), runs=3, at_once=5, after=(20,))

    assert (lost == 0).all()
