"""Graphs loaded as the service does, into ONNX Runtime or OpenVINO, on one CPU thread. Knows no networks."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lab.reference.inputs import Feeds
from model_export.errors import ExportError
from msd.contract.instructions import cpu_instructions
from msd.contract.openvino import OpenVinoGraph, OpenVinoPrecision, load_openvino

Output = NDArray[np.floating]
Runner = Callable[[Feeds], Sequence[Output]]


def in_onnxruntime(model: onnx.ModelProto) -> Runner:
    """Load a graph into ONNX Runtime, in whatever precision it is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    heads = [one.name for one in session.get_outputs()]

    def run(feeds: Feeds) -> Sequence[Output]:
        return cast(Sequence[Output], session.run(heads, {name: feeds[name] for name in names}))

    return run


def in_openvino(model: onnx.ModelProto, precision: OpenVinoPrecision, expected: int) -> Runner:
    """Load a graph into OpenVINO, compiled for the expected number of candidates, with inputs in bound arrays.

    Raises ExportError if OpenVINO or the precision is unavailable.
    """
    _openvino(precision)
    heads = [one.name for one in model.graph.output]
    graph = OpenVinoGraph(model.SerializeToString(), precision, 1, heads, expected)
    return lambda feeds: list(graph.run(feeds).values())


def in_openvino_of_bf16(model: onnx.ModelProto, feeds: Feeds) -> Callable[[], object]:
    """Load a graph in bf16 for one request, with inputs that are bf16 before it starts, like those of an inner layer.

    Raises ExportError if OpenVINO or bf16 is unavailable.
    """
    openvino = _openvino("bf16")
    import_module("openvino.preprocess")
    prepared = openvino.preprocess.PrePostProcessor(openvino.Core().read_model(model.SerializeToString()))
    for name in feeds:
        prepared.input(name).tensor().set_element_type(openvino.Type.bf16)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(prepared.build(), "CPU", options)
    request = compiled.create_infer_request()
    for one in compiled.inputs:
        values = np.ascontiguousarray(feeds[one.any_name], np.float32)
        tensor = openvino.Tensor(openvino.Type.bf16, values.shape)
        # numpy has no bf16, which is the upper half of a float.
        tensor.data.view(np.uint16)[...] = values.view(np.uint32) >> 16
        request.set_tensor(one, tensor)
    return cast(Callable[[], object], request.infer)


def _openvino(precision: OpenVinoPrecision) -> Any:  # noqa: ANN401 - openvino says little of types
    try:
        openvino = load_openvino()
    except ImportError:
        raise ExportError("OpenVINO is not installed: pip install 'msd-ctr[openvino]'") from None
    if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError(
            f"bf16: OpenVINO does not offer it on this CPU ({' '.join(cpu_instructions())}), which has neither AMX nor"
            " AVX512_BF16"
        )
    return openvino
