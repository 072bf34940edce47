"""Exported graphs score as torch does; the tiled one of tiled inputs as the plain one."""

import numpy as np
import pytest

from lab.race.runners import in_onnxruntime
from lab.reference.graphs import AXIS, examples, plain_graph, tiled_graph
from lab.reference.inputs import SIDES, random_feeds, tiled
from lab.reference.network import NETWORKS, lively, made
from lab.reference.twins import twin_of
from tests.lab.reference.small import SMALL, greatest, network, scores


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("candidates", [1, 3, 40])
def test_graphs_score_as_torch(name: str, candidates: int) -> None:
    plain = network(name)
    twin = twin_of(plain)
    feeds = random_feeds(SMALL, candidates, seed=1)
    expected = scores(plain, examples(plain, SMALL, candidates, seed=1))

    assert greatest(list(in_onnxruntime(plain_graph(plain, plain, SMALL))(feeds)), expected) < 1e-5
    assert greatest(list(in_onnxruntime(plain_graph(twin, twin, SMALL))(feeds)), expected) < 1e-5
    assert greatest(list(in_onnxruntime(tiled_graph(plain, SMALL))(tiled(feeds))), expected) < 1e-5


def test_the_users_inputs_come_once_but_for_the_tiled_graph() -> None:
    plain = network("reference")
    for graph, many in (
        (plain_graph(plain, plain, SMALL), {name for name, side in SIDES.items() if side == "item"}),
        (tiled_graph(plain, SMALL), set(SIDES)),
    ):
        first = {one.name: one.type.tensor_type.shape.dim[0] for one in graph.graph.input}
        assert {name for name, axis in first.items() if axis.dim_param == AXIS} == many
        assert all(axis.dim_value == 1 for name, axis in first.items() if name not in many)
    assert not plain.tiled


def test_tiling_does_not_leave_traces_in_a_plain_graph() -> None:
    plain = network("deepfm")
    before = plain_graph(plain, plain, SMALL).SerializeToString()
    tiled_graph(plain, SMALL)

    assert plain_graph(plain, plain, SMALL).SerializeToString() == before
    assert "Expand" not in {node.op_type for node in tiled_graph(plain, SMALL).graph.node}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_gives_a_network_and_its_scores_differ_by_candidate(name: str) -> None:
    first, again, other = (lively(made(name, SMALL, seed)) for seed in (1, 1, 2))
    inputs = examples(first, SMALL, 30)

    assert greatest(scores(first, inputs), scores(again, inputs)) == 0
    assert greatest(scores(first, inputs), scores(other, inputs)) > 0.01
    assert all(np.ptp(one) > 0.005 for one in scores(first, inputs))
