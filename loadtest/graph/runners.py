"""Loads graphs into ONNX Runtime, or OpenVINO in bf16, on one thread of the CPU. Knows no networks."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from loadtest.graph.inputs import Feeds
from model_export.errors import ExportError
from msd.contract.openvino import load_openvino

Output = NDArray[np.floating]
Runner = Callable[[Feeds], Sequence[Output]]


def in_onnxruntime(model: onnx.ModelProto) -> Runner:
    """Runs a graph in ONNX Runtime, at whatever precision it is written in."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}

    def run(feeds: Feeds) -> Sequence[Output]:
        return cast(Sequence[Output], session.run(None, {name: feeds[name] for name in names}))

    return run


def in_openvino_bf16(model: onnx.ModelProto) -> Runner:
    """Runs a graph in OpenVINO in bf16. Raises ExportError where OpenVINO, or bf16, is not to be had."""
    openvino = _openvino()
    compiled = _compiled_bf16(openvino.Core().read_model(model.SerializeToString()))
    request = compiled.create_infer_request()
    names = [one.any_name for one in compiled.inputs]
    outputs = list(compiled.outputs)

    def run(feeds: Feeds) -> Sequence[Output]:
        found = request.infer({name: feeds[name] for name in names}, share_inputs=True)
        return [found[output] for output in outputs]

    return run


def in_openvino_of_bf16(model: onnx.ModelProto, feeds: Feeds) -> Callable[[], object]:
    """The same for one request, whose inputs are bf16 before it starts, as those of a layer within a graph are."""
    openvino = _openvino()
    prepared = openvino.preprocess.PrePostProcessor(openvino.Core().read_model(model.SerializeToString()))
    for name in feeds:
        prepared.input(name).tensor().set_element_type(openvino.Type.bf16)
    compiled = _compiled_bf16(prepared.build())
    request = compiled.create_infer_request()
    for one in compiled.inputs:
        values = np.ascontiguousarray(feeds[one.any_name], np.float32)
        tensor = openvino.Tensor(openvino.Type.bf16, values.shape)
        # numpy has no bf16: it is the upper half of a float.
        tensor.data.view(np.uint16)[...] = values.view(np.uint32) >> 16
        request.set_tensor(one, tensor)
    return cast(Callable[[], object], request.infer)


def _openvino() -> Any:  # noqa: ANN401 - openvino says little of types
    try:
        openvino = load_openvino()
        import_module("openvino.preprocess")
    except ImportError:
        raise ExportError("OpenVINO is not installed: pip install 'msd-ctr[openvino]'") from None
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError("OpenVINO does not offer bf16 on this CPU")
    return openvino


def _compiled_bf16(model: Any) -> Any:  # noqa: ANN401 - as above
    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return _openvino().Core().compile_model(model, "CPU", options)
