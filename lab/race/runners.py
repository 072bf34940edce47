"""Graphs loaded as the service does, into ONNX Runtime or OpenVINO, on one CPU thread. Knows no networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lab.reference.inputs import Feeds
from model_export.errors import ExportError
from model_export.precision.int8 import check_int8, quantise
from msd.contract.openvino import OpenVinoGraph, OpenVinoPrecision, load_openvino

Form = Literal["int8", "bf16"]
FORMS: tuple[Form, ...] = ("int8", "bf16")
"""How a graph may be served, besides in fp32: int8 on ONNX Runtime, bf16 on OpenVINO."""
Output = NDArray[np.floating]
Runner = Callable[[Feeds], Sequence[Output]]
Served = Callable[[int], Runner]
"""Opens a graph for an expected number of candidates."""


class Forms(NamedTuple):
    """The forms that this machine can serve a graph in, and the reasons why it cannot in others."""

    served: dict[Form, Served]
    not_possible: dict[Form, str]


def forms_of(model: onnx.ModelProto, rows: Sequence[Feeds], instructions: tuple[str, ...]) -> Forms:
    """Return an fp32 graph in all forms that a CPU with these instructions has; int8's ranges come from some rows."""
    forms = Forms({}, {})
    for form in FORMS:
        try:
            if form == "int8":
                check_int8(instructions)
                graph = onnx.load_from_string(quantise(model.SerializeToString(), rows))
                forms.served[form] = _for_any_number(in_onnxruntime(graph))
            else:
                _check_bf16(instructions)
                forms.served[form] = partial(in_openvino, model, "bf16")
        except ExportError as error:
            forms.not_possible[form] = str(error)
    return forms


def _for_any_number(runner: Runner) -> Served:
    return lambda _: runner


def in_onnxruntime(model: onnx.ModelProto) -> Runner:
    """Load a graph into ONNX Runtime, in whatever precision it is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {tensor.name for tensor in session.get_inputs()}
    heads = [tensor.name for tensor in session.get_outputs()]

    def run(feeds: Feeds) -> Sequence[Output]:
        return cast(Sequence[Output], session.run(heads, {name: feeds[name] for name in names}))

    return run


def in_openvino(model: onnx.ModelProto, precision: OpenVinoPrecision, expected: int) -> Runner:
    """Load a graph into OpenVINO, compiled for the expected number of candidates, with inputs in bound arrays."""
    heads = [tensor.name for tensor in model.graph.output]
    graph = OpenVinoGraph(model.SerializeToString(), precision, 1, heads, expected)
    return lambda feeds: list(graph.run(feeds).values())


def _check_bf16(instructions: tuple[str, ...]) -> None:
    """Raise ExportError if OpenVINO or bf16 is unavailable."""
    try:
        openvino = load_openvino()
    except ImportError:
        raise ExportError("OpenVINO is not installed: pip install 'msd-ctr[openvino]'") from None
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError(
            f"bf16: OpenVINO does not offer it on this CPU ({' '.join(instructions)}), which has neither AMX nor"
            " AVX512_BF16"
        )
