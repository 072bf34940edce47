"""The fitted uncertainty is that of the clicks' law, and held-out ads are where it says; without one they are not."""

import numpy as np

from msd.ranker.uncertainty import AdRows, fit_uncertainty

ADS, ROWS = 160, 30


def made(effect: float, seed: int) -> tuple[AdRows, AdRows]:
    """Rows of ads whose log-odds have an effect of their own: unknown to the scores as a new ad's, and half known."""
    rng = np.random.default_rng(seed)
    ads = np.repeat(np.arange(ADS), ROWS)
    base, own = rng.normal(-1.0, 0.5, ADS * ROWS), rng.normal(0, effect, ADS)
    labels = (rng.random(len(ads)) < 1 / (1 + np.exp(-base - own[ads]))).astype(np.float64)
    seen = rng.integers(0, 2_000, ADS).astype(np.float64)
    left = effect / np.sqrt(1 + effect**2 * seen * 0.2)
    # What the scores know of an effect, so that what is left has the law's deviation.
    known = own - rng.normal(0, 1, ADS) * left if effect else own
    known = known * (1 - (left / effect) ** 2) if effect else known
    return AdRows(base, np.zeros(len(ads)), labels, ads), AdRows(base + known[ads], seen[ads], labels, ads)


def test_the_law_is_found_and_its_intervals_hold() -> None:
    found = fit_uncertainty(*made(0.8, 1))

    assert 0.6 < found.new < 1.0
    new = found.coverage["new"]
    # Of 160 ads the shares have standard errors of .04 and .024.
    assert new.items == ADS
    assert 0.38 < new.within_50 < 0.62
    assert 0.83 < new.within_90 < 0.97
    assert new.certain_90 < 0.75, "without an uncertainty"
    assert found.coverage["frequent"].median_std < found.coverage["rare"].median_std < new.median_std


def test_without_an_effect_almost_nothing_is_uncertain() -> None:
    found = fit_uncertainty(*made(0.0, 2))

    assert found.new < 0.25
    assert found.coverage["new"].within_90 > 0.83


def test_a_single_ad_gives_what_is_assumed() -> None:
    new, known = made(0.5, 3)
    first = new.ads < 2
    found = fit_uncertainty(new.of(first), known.of(first))

    assert 0.05 < found.new < 3
