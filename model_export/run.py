"""A graph in one of the precisions, run on one thread as the service would run it."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_export.errors import ExportError
from msd.contract.assemble import Tensors
from msd.contract.padding import pad_candidates
from msd.contract.precision import Precision

Run = Callable[[Tensors], NDArray[np.float32]]
"""The schema's tensors → the heads' scores [H, N]."""
Name = TypeVar("Name", bound=str)
_ROUNDS = 40


def open_run(graph: bytes, precision: Precision, heads: Sequence[str]) -> Run:
    """Raises ExportError where this machine cannot run the graph in the precision."""
    return _open_openvino(graph, heads) if precision == "bf16" else _open_onnxruntime(graph, heads)


def _open_onnxruntime(graph: bytes, heads: Sequence[str]) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(tensors: Tensors) -> NDArray[np.float32]:
        return np.stack(session.run(list(heads), tensors))

    return run


def _open_openvino(graph: bytes, heads: Sequence[str]) -> Run:
    # OpenVINO reports every import to its maker, unless the package that it does so with is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ExportError("bf16 runs on OpenVINO, which is not installed: pip install 'msd-ctr[openvino]'") from None
    core = openvino.Core()
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in offered:
        raise ExportError(f"OpenVINO does not offer bf16 on this CPU; it offers {', '.join(sorted(offered))}")
    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    model = core.read_model(graph)
    candidates = _candidate_inputs(model)
    # Read from bytes, a model has lost the inputs that it does nothing with.
    names = {name for one in model.inputs for name in one.names}
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def run(tensors: Tensors) -> NDArray[np.float32]:
        used = {name: tensor for name, tensor in tensors.items() if name in names}
        count = len(used[candidates[0]])
        found = request.infer(pad_candidates(used, candidates), share_inputs=True)
        return np.stack([found[head][:count] for head in heads])

    return run


def _candidate_inputs(model: Any) -> list[str]:  # noqa: ANN401 - openvino says little of types
    return [one.any_name for one in model.inputs if one.partial_shape[0].is_dynamic]


def median_microseconds(runs: Mapping[Name, Run], tensors: Tensors) -> dict[Name, float]:
    """The median time of a run of each, in turns, so that what else the machine does slows all alike."""
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(tensors)
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(tensors)
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) * 1e6 for name, times in taken.items()}
