"""A twin has the scores of its network, in single precision and, to prove that it is not by chance, in double."""

import pytest

from lab.reference.graphs import examples
from lab.reference.network import NETWORKS
from lab.reference.twins import twin_of
from tests.lab.reference.small import SMALL, double, greatest, network, scores


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("candidates", [1, 3, 50])
def test_a_twin_scores_as_its_network(name: str, candidates: int) -> None:
    plain = network(name)
    inputs = examples(plain, SMALL, candidates, seed=candidates)

    assert greatest(scores(twin_of(plain), inputs), scores(plain, inputs)) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("candidates", [1, 3, 50])
def test_a_twin_is_its_network_in_double_precision(name: str, candidates: int) -> None:
    plain = network(name).double()
    inputs = double(plain, candidates, seed=candidates)

    assert greatest(scores(twin_of(plain), inputs), scores(plain, inputs)) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrong_weight_shows(name: str) -> None:
    plain = network(name).double()
    inputs, twin = double(plain, 3, seed=3), twin_of(plain)
    expected = scores(plain, inputs)

    twin.item_table.mul_(1.001)

    assert greatest(scores(twin, inputs), expected) > 1e-6
