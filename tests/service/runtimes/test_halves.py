"""A split graph scores as the whole one does, bit for bit, whatever its nodes; or says why it stays whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from msd.contract.bundle import Bundle
from msd.contract.golden import repeated
from service.runtimes.choice import open_runtime
from service.runtimes.halves import open_halves
from service.runtimes.onnxruntime import open_session
from service.runtimes.split import SplitGraph, Unsplit
from service.settings import Settings
from tests.bundles.factory import build_bundle, some_tensors
from tests.bundles.ranker_graph import Recipe

RNG = np.random.default_rng(0)
FEEDS = {"user": RNG.standard_normal((1, 4)).astype("f4"), "item_x": RNG.standard_normal((5, 4)).astype("f4")}


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(dense=True), Recipe(heads=("pctr",)), Recipe(hangs=True)])
def test_halves_score_as_the_whole_graph(recipe: Recipe, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "bundle", recipe)
    whole = open_runtime(bundle, Settings(bundle=bundle.folder))
    halves = open_halves(bundle, whole)

    for tensors in some_tensors(bundle.schema):
        for count in (1, 2, 7, 300):
            given = repeated(bundle.schema, tensors, count)
            kept = halves.prepared({name: one for name, one in given.items() if not name.startswith("item_")})
            items = {name: one for name, one in given.items() if name.startswith("item_")}
            one, other = whole.run(given), halves.candidates.run(items | kept)
            assert list(one) == list(other)
            assert all(one[head].tobytes() == other[head].tobytes() for head in one)


def graph(nodes: Sequence[onnx.NodeProto], output: str, *weights: onnx.TensorProto) -> bytes:
    """A graph of a user [1, 4] and items [N, 4]."""
    inputs = [
        helper.make_tensor_value_info("user", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("item_x", TensorProto.FLOAT, ["N", 4]),
    ]
    made = helper.make_graph(
        list(nodes), "g", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], list(weights)
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def scores(model: bytes, output: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """By the whole graph, and the same by its halves."""
    split = SplitGraph(model, {"user"})
    first, second = split.first(), split.second(dict.fromkeys(split.values, 1))
    user = open_session(first, "cpu", 1, is_optimised=True)
    values = dict(zip(split.values, user.run(split.values, {"user": FEEDS["user"]}), strict=True))
    rest = open_session(second, "cpu", 1, is_optimised=True)
    names = [one.name for one in rest.get_inputs()]
    found = rest.run([output], {name: (FEEDS | values)[name] for name in names})[0]
    expected = open_session(model, "cpu", 1, is_optimised=True).run([output], FEEDS)[0]
    assert found.tobytes() == expected.tobytes()
    result: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = found
    return result


def test_constants_and_what_a_branch_reads_reach_the_half_that_needs_them() -> None:
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    two = numpy_helper.from_array(np.array(2, np.float32))
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["item_x", name], ["branch"])],
            name,
            [],
            [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
        )
        for kind, name in (("Add", "mine"), ("Mul", "user"))
    ]
    nodes = [
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("Mul", ["user", "w"], ["mine"]),
        helper.make_node("Mul", ["mine", "two"], ["twice"]),
        helper.make_node("ReduceSum", ["twice"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "two"], ["is_large"]),
        helper.make_node("Add", ["item_x", "two"], ["shifted"]),
        helper.make_node("Size", ["shifted"], ["size"]),
        helper.make_node("Cast", ["size"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["count", "two"], ["is_many"]),
        helper.make_node("If", ["is_many"], ["one"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Mul", ["one", "twice"], ["out"]),
    ]
    assert scores(graph(nodes, "out", weight), "out").shape == (5, 4)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Mul", ["user", "item_x"], ["out"])], "nothing in its graph"),
        ([helper.make_node("Exp", ["item_x"], ["out"])], "nothing in its graph"),
        ([helper.make_node("Exp", ["user"], ["out"]), helper.make_node("Mul", ["out", "item_x"], ["x"])], "'out'"),
    ],
)
def test_says_why_a_graph_is_not_split(nodes: Sequence[onnx.NodeProto], words: str) -> None:
    with pytest.raises(Unsplit, match=words):
        SplitGraph(graph(nodes, "out"), {"user"})


def test_another_runtime_stays_whole(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    whole = open_runtime(bundle, Settings(bundle=bundle.folder, runtime="openvino"))
    with pytest.raises(Unsplit, match="openvino"):
        open_halves(bundle, whole)
