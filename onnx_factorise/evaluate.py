"""Evaluation of a graph as it is, by ONNX Runtime, and its conversion to double precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnx_factorise.errors import CannotRun

Feeds = Mapping[str, Any]


class Evaluator:
    """One graph, ready to run."""

    def __init__(self, model: onnx.ModelProto, what: str) -> None:
        """`what` names the graph in errors. Raises CannotRun, such as for an operator without a kernel for doubles."""
        import onnxruntime  # here, because the pass can be imported without it

        self._what = what
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            raise CannotRun(f"{what} cannot be loaded: {error}") from error

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """Return the named outputs, or all of the graph's. Raises CannotRun with the reason."""
        try:
            return list(self._session.run(outputs, dict(feeds)))
        except Exception as error:  # as above
            raise CannotRun(f"{self._what} cannot be run: {error}") from error


_NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPES = {"Cast": "to", "LayerNormalization": "stash_type", "EyeLike": "dtype", "RandomNormal": "dtype"}


def as_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in which every float tensor is a double."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _convert(made.graph)
    return made


def _convert(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _convert_tensor(tensor)
    for node in graph.node:
        if node.op_type == "LayerNormalization" and all(one.name != "stash_type" for one in node.attribute):
            node.attribute.append(helper.make_attribute("stash_type", TensorProto.FLOAT))  # the default
        for attribute in node.attribute:
            _convert_attribute(node, attribute)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _convert_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _convert_tensor(attribute.t)
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        value = np.array(helper.get_attribute_value(attribute), np.float64)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    elif _TYPES.get(node.op_type) == attribute.name and attribute.i in _NARROW:
        attribute.i = TensorProto.DOUBLE
