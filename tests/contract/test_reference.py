"""Distributions and their distance: nothing for the same, more the further off, finite whatever comes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from msd.contract.reference import Distribution, dense_inputs, reference_of
from tests.bundles.factory import example_schema

VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=60)


@given(VALUES, VALUES)
def test_every_value_is_counted_and_psi_is_finite(then: list[float], now: list[float]) -> None:
    distribution = Distribution.of(np.array(then))
    counts = distribution.counts(np.array(now))

    assert counts.sum() == len(now)
    assert sum(distribution.shares) == pytest.approx(1)
    assert np.isfinite(distribution.psi(counts))
    assert distribution.psi(counts) >= 0
    assert distribution.psi(distribution.counts(np.array(then))) == pytest.approx(0, abs=1e-12)
    assert Distribution.model_validate_json(distribution.model_dump_json()) == distribution


def test_bins_have_equal_shares_and_frequent_values_own_bins() -> None:
    rng = np.random.default_rng(0)
    smooth = Distribution.of(rng.normal(size=10_000))
    assert len(smooth.edges) == 9
    assert smooth.shares[0] == 0
    assert all(0.09 < share < 0.11 for share in smooth.shares[1:])

    lumpy = Distribution.of(np.array([0.0] * 700 + [1.0] * 200 + [2.0] * 100 + [np.nan] * 1_000))
    assert lumpy.edges == (0.0, 1.0)
    assert lumpy.shares == (0.5, 0.35, 0.1, 0.05)
    assert Distribution.of(np.array([np.nan] * 3)).shares == (1.0, 0.0)


def test_psi_grows_with_the_shift() -> None:
    rng = np.random.default_rng(1)
    distribution = Distribution.of(rng.normal(size=2_000))
    found = [distribution.psi(distribution.counts(rng.normal(shift, size=2_000))) for shift in (0, 0.2, 0.5, 1.0)]

    assert found == sorted(found)
    assert found[0] < 0.02
    assert found[2] > 0.2
    missing = distribution.counts(np.where(np.arange(2_000) % 4 == 0, np.nan, rng.normal(size=2_000)))
    assert distribution.psi(missing) > 0.25


@pytest.mark.parametrize(
    "change",
    [{"edges": (1.0, 0.0)}, {"edges": ()}, {"shares": (0.5, 0.5)}, {"rows": 0}, {"edges": (0.0, float("nan"))}],
)
def test_rejects_wrong_distribution(change: dict[str, object]) -> None:
    whole = {"edges": (0.0, 1.0), "shares": (0.0, 0.5, 0.25, 0.25), "rows": 4}
    Distribution.model_validate(whole)
    with pytest.raises(ValidationError):
        Distribution.model_validate({**whole, **change})


def test_every_dense_column_has_a_name() -> None:
    schema = example_schema()
    inputs = dense_inputs(schema)
    widths = {side: schema.dense_width(side) for side in ("user", "item", "context")}
    columns = [(place.tensor, column) for place in inputs.values() for column in (place.column, place.missing)]
    used = {(tensor, column) for tensor, column in columns if column is not None}

    assert used == {(f"{side}_dense", column) for side, width in widths.items() for column in range(width)}
    assert {"age", "price", "temperature", "user_counts.log_impressions", "item_text.present"} < inputs.keys()
    tensors = {f"{side}_dense": np.zeros((2, width), np.float32) for side, width in widths.items()}
    tensors["item_dense"][1, inputs["price"].missing] = 1
    reference = reference_of(schema, [tensors], {"pctr": np.array([0.1, 0.2])})
    assert reference.inputs["price"].shares == (0.5, 0.5)
    assert list(reference.scores) == ["pctr"]
