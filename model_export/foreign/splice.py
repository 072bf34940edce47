"""Conversion of a graph with custom inputs to the schema's tensors: user and context once, heads [N].

`bind` decides the mapping; this module writes the nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper

from model_export.foreign.bind import Binding
from msd.contract.schema import FeatureSchema, TensorSpec

ITEM_AXIS = "candidates"
_PREFIX = "own/"
_TYPES = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def spliced_graph(
    model: ModelProto, bindings: Sequence[Binding], schema: FeatureSchema, heads: Mapping[str, str]
) -> ModelProto:
    """Return the graph with all schema tensors as inputs, the user side once, and heads [N]. `heads`: head → output."""
    inner = compose.add_prefix(model, _PREFIX)
    item = next(spec for spec in schema.tensors if spec.side == "item")
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for binding in bindings:
        nodes += _adapt(binding, item.name, constants)
    tails: list[NodeProto] = []
    for head, output in heads.items():
        tails += _tail(head, f"{_PREFIX}{output}", constants)
    graph = helper.make_graph(
        [*nodes, *inner.graph.node, *tails],
        "ranker",
        [_input(spec) for spec in schema.tensors],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, [ITEM_AXIS]) for head in heads],
        [*inner.graph.initializer, *constants],
    )
    bound = helper.make_model(graph, opset_imports=inner.opset_import, ir_version=inner.ir_version)
    onnx.checker.check_model(bound)
    return onnx.shape_inference.infer_shapes(bound, data_prop=True)


def _adapt(binding: Binding, item: str, constants: list[TensorProto]) -> list[NodeProto]:
    """Return the nodes from a schema tensor to an input, with operators that are the same in every opset."""
    spec, value = binding.columns.tensor, binding.columns.tensor.name
    base = f"bind/{binding.name}"
    steps: list[NodeProto] = []

    def step(op: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - what onnx takes for attributes
        output = f"{base}/{len(steps)}"
        steps.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(name: str, array: NDArray[np.int64]) -> str:
        constants.append(numpy_helper.from_array(array, f"{base}/{name}"))
        return f"{base}/{name}"

    chosen, rest = binding.columns.chosen, list(spec.shape[:-1])
    if (chosen.start, chosen.stop) != (0, spec.shape[-1]):
        places = constant("columns", np.arange(chosen.start, chosen.stop))
        value = step("Gather", value, places, axis=len(spec.shape))
    if binding.flat:
        value = step("Reshape", value, constant("flat", np.zeros(len(spec.shape), np.int64)))
    else:
        rest.append(chosen.stop - chosen.start)
    if binding.repeated:
        count = step("Gather", step("Shape", item), constant("first", np.zeros(1, np.int64)), axis=0)
        shape = step("Concat", count, constant("rest", np.array(rest, np.int64)), axis=0)
        value = step("Expand", value, shape)
    steps.append(helper.make_node("Cast", [value], [f"{_PREFIX}{binding.name}"], to=binding.type))
    return steps


def _tail(head: str, output: str, constants: list[TensorProto]) -> list[NodeProto]:
    """Return the nodes from an output [N] or [N, 1] of any float type to a head."""
    base = f"bind/{head}"
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), f"{base}/shape"))
    flat = helper.make_node("Reshape", [output, f"{base}/shape"], [f"{base}/flat"])
    return [flat, helper.make_node("Cast", [f"{base}/flat"], [head], to=TensorProto.FLOAT)]


def _input(spec: TensorSpec) -> ValueInfoProto:
    return helper.make_tensor_value_info(
        spec.name, _TYPES[spec.dtype], [ITEM_AXIS if spec.side == "item" else 1, *spec.shape]
    )
