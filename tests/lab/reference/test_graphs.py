"""Exported graphs score as torch does, the tiled one of tiled inputs too; the twin scores as its network."""

import numpy as np
import pytest

from lab.race.runners import in_onnxruntime
from lab.reference.graphs import AXIS, examples, plain_graph, tiled_graph
from lab.reference.inputs import SIDES, random_feeds, tiled
from lab.reference.network import NETWORKS, ReferenceModel, lively, made
from lab.reference.twin import ReferenceTwin
from tests.lab.reference.small import SMALL, double, greatest, network, scores


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("candidates", [1, 40])
def test_graphs_score_as_torch(name: str, candidates: int) -> None:
    plain = network(name)
    feeds = random_feeds(SMALL, candidates, seed=1)
    expected = scores(plain, examples(plain, SMALL, candidates, seed=1))

    assert greatest(list(in_onnxruntime(plain_graph(plain, SMALL))(feeds)), expected) < 1e-5
    assert greatest(list(in_onnxruntime(tiled_graph(plain, SMALL))(tiled(feeds))), expected) < 1e-5


def test_only_the_tiled_graph_takes_user_inputs_per_candidate() -> None:
    plain = network("reference")
    before = plain_graph(plain, SMALL).SerializeToString()
    of_tiled = tiled_graph(plain, SMALL)
    for graph, many in (
        (plain_graph(plain, SMALL), {name for name, side in SIDES.items() if side == "item"}),
        (of_tiled, set(SIDES)),
    ):
        first = {value.name: value.type.tensor_type.shape.dim[0] for value in graph.graph.input}
        assert {name for name, axis in first.items() if axis.dim_param == AXIS} == many
        assert all(axis.dim_value == 1 for name, axis in first.items() if name not in many)
    assert "Expand" not in {node.op_type for node in tiled_graph(network("deepfm"), SMALL).graph.node}
    assert plain_graph(plain, SMALL).SerializeToString() == before


@pytest.mark.parametrize("name", NETWORKS)
def test_seed_sets_weights_and_scores_differ_by_candidate(name: str) -> None:
    first, again, other = (lively(made(name, SMALL, seed)) for seed in (1, 1, 2))
    inputs = examples(first, SMALL, 30)

    assert greatest(scores(first, inputs), scores(again, inputs)) == 0
    assert greatest(scores(first, inputs), scores(other, inputs)) > 0.01
    assert all(np.ptp(head) > 0.005 for head in scores(first, inputs))


@pytest.mark.parametrize("candidates", [1, 3, 50])
def test_twin_is_its_network_in_double_precision(candidates: int) -> None:
    plain = network("reference").double()
    assert isinstance(plain, ReferenceModel)
    inputs, twin = double(plain, candidates, seed=candidates), ReferenceTwin(plain).eval()
    expected = scores(plain, inputs)

    assert greatest(scores(twin, inputs), expected) < 1e-12
    twin.get_buffer("item_table").mul_(1.001)
    assert greatest(scores(twin, inputs), expected) > 1e-6
