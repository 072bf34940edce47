"""OpenVINO behind the Protocol: it reads the bundle's ONNX file, and runs it in fp32 or bf16 on the CPU.

OpenVINO makes its kernels anew for each number of candidates that it has not seen, which costs a request some
milliseconds. So candidates are padded to a few sizes, all of which are run before the service is ready.
"""

import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.instructions import cpu_instructions
from msd.contract.padding import pad_candidates, padded_sizes
from msd.contract.precision import Precision
from service.runtimes.checks import ALONE, GraphInput, check_graph
from service.runtimes.runtime import Engine, RuntimeRefused, Scores

NAME = "openvino"
_DTYPES = {"i32": "int32", "f32": "float32"}
_HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
_PRODUCTS = ("FullyConnected", "MatMul")


class OpenVinoRuntime:
    """A compiled model of OpenVINO."""

    def __init__(self, bundle: Bundle, precision: Precision, threads: int) -> None:
        """Raises RuntimeRefused when the precision is not to be had, BundleError when graph and manifest disagree."""
        path = bundle.path(RANKER)
        self._candidate_inputs = [spec.name for spec in bundle.schema.tensors if spec.side == "item"]
        compiled = _compile(path, precision, threads)
        outputs = [output.any_name for output in compiled.outputs]
        wanted = {spec.name for spec in bundle.schema.tensors}
        self._heads = check_graph(bundle, ALONE, _inputs(compiled, wanted), outputs)
        self.engine = _engine(path, compiled, precision)
        self._request = compiled.create_infer_request()

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head."""
        count = len(tensors[self._candidate_inputs[0]])
        given = pad_candidates(tensors, self._candidate_inputs)
        # Shared with OpenVINO, not copied: the request is over before anyone could change them.
        found = self._request.infer(given, share_inputs=True)
        return {head: found[head][:count] for head in self._heads}

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Every size that candidates may be padded to."""
        return list(padded_sizes(max_candidates))


def _compile(path: Path, precision: Precision, threads: int) -> Any:  # noqa: ANN401 - openvino says little of types
    if precision not in _HINTS:
        raise RuntimeRefused(
            f"{path}: is quantised for onnxruntime; OpenVINO is asked for: set MSD_RUNTIME=onnxruntime, or auto"
        )
    core = _openvino(path).Core()
    if precision == "bf16":
        check_bf16(path, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    options = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Two processes that both pin would share a core and leave others idle.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        return core.compile_model(core.read_model(str(path)), "CPU", options)
    except Exception as error:  # all of openvino's errors are plain RuntimeErrors
        raise BundleError(f"{path}: openvino cannot load it: {error}") from error


def _openvino(path: Path) -> Any:  # noqa: ANN401
    """The package, which reports every import to its maker, unless the package that it does so with is not there."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeRefused(
            f"{path}: is to run on OpenVINO, which is not installed: pip install 'msd-ctr[openvino]', or set"
            " MSD_RUNTIME=onnxruntime"
        ) from error
    return openvino


def check_bf16(path: Path, offered: Sequence[str]) -> None:
    """Raises RuntimeRefused where OpenVINO does not offer bf16 on this CPU."""
    if "BF16" not in offered:
        raise RuntimeRefused(
            f"{path}: is to run in bf16, which OpenVINO does not offer on this CPU (it offers"
            f" {', '.join(sorted(offered))}); set MSD_RUNTIME=onnxruntime to run it in fp32"
        )


def _inputs(compiled: Any, wanted: Set[str]) -> list[GraphInput]:  # noqa: ANN401
    """The inputs by the names that are wanted: one that a node only hands on also has the name of what that gives."""
    return [
        GraphInput(
            next(iter(wanted & one.names), one.any_name),
            _DTYPES.get(one.element_type.get_type_name(), one.element_type.get_type_name()),
            tuple(None if axis.is_dynamic else axis.get_length() for axis in one.partial_shape),
        )
        for one in compiled.inputs
    ]


def _engine(path: Path, compiled: Any, asked: Precision) -> Engine:  # noqa: ANN401
    layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    found = {one["runtimePrecision"].value for one in layers if one["layerType"].value in _PRODUCTS}
    got: Precision = "bf16" if "bf16" in found else "fp32"
    if got != asked or found - {"bf16", "f32"}:
        raise RuntimeRefused(
            f"{path}: {asked} was asked for, but OpenVINO runs its matrix products in {', '.join(found) or 'nothing'};"
            " set MSD_RUNTIME=onnxruntime"
        )
    return Engine(
        name=NAME,
        version=_openvino(path).__version__,
        provider="+".join(compiled.get_property("EXECUTION_DEVICES")).lower(),
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        precision=got,
        instructions=cpu_instructions(),
    )
