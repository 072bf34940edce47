"""Loads graphs into ONNX Runtime, or OpenVINO in bf16, on one thread of the CPU. Knows no networks."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from loadtest.graph.inputs import Feeds
from model_export.errors import ExportError

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
    """Runs a graph in OpenVINO in bf16. Raises ExportError where it, or bf16, is not to be had."""
    # Otherwise it reports each import to its maker.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ExportError("OpenVINO is not installed: pip install 'msd-ctr[openvino]'") from None
    core: Any = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError("OpenVINO does not offer bf16 on this CPU")
    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    names = [one.any_name for one in compiled.inputs]
    outputs = list(compiled.outputs)

    def run(feeds: Feeds) -> Sequence[Output]:
        found = request.infer({name: feeds[name] for name in names}, share_inputs=True)
        return [found[output] for output in outputs]

    return run
