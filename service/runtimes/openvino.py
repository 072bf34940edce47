"""OpenVINO as a `Runtime`: reads the bundle's ONNX file, and runs it in fp32 or bf16 on the CPU."""

from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.instructions import cpu_instructions
from msd.contract.openvino import OpenVinoGraph, OpenVinoPrecision, load_openvino, name_of, openvino_core
from msd.contract.precision import Precision
from msd.contract.tensors import Tensors
from service.machine import give_way
from service.runtimes.runtime import Engine, GraphInput, RuntimeRefused, Scores, check_graph, checked_heads

NAME = "openvino"
_DTYPES = {"i32": "int32", "f32": "float32"}
_PRODUCTS = ("FullyConnected", "MatMul")


class OpenVinoRuntime:
    def __init__(
        self, bundle: Bundle, precision: OpenVinoPrecision, threads: int, expected: int = 0, streams: int = 1
    ) -> None:
        """`expected`: the usual number of candidates, 0 if unknown. `streams`: concurrent runs.

        Raises RuntimeRefused if the precision is unavailable, BundleError if graph and manifest disagree.
        """
        path = bundle.path(RANKER)
        self._graph = _open(bundle, path, precision, threads, expected, streams)
        compiled = self._graph.compiled
        outputs = [output.any_name for output in compiled.outputs]
        check_graph(bundle, _inputs(compiled, {spec.name for spec in bundle.schema.tensors}), outputs)
        self.engine = _engine(path, compiled, precision)
        self.native = None
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside", initializer=give_way)

    def run(self, tensors: Tensors, is_aside: bool = False) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return self._aside.submit(self._graph.run, tensors).result() if is_aside else self._graph.run(tensors)

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return every padded size."""
        return sorted({self._graph.size_of(count) for count in range(1, max_candidates + 1)})


def _open(
    bundle: Bundle, path: Path, precision: OpenVinoPrecision, threads: int, expected: int, streams: int
) -> OpenVinoGraph:
    try:
        load_openvino()
    except ImportError as error:
        raise RuntimeRefused(
            f"{path}: needs OpenVINO, which is not installed: pip install 'msd-ctr[openvino]', or set"
            " MSD_RUNTIME=onnxruntime"
        ) from error
    if precision == "bf16":
        check_bf16(path, openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    heads = checked_heads(bundle.manifest.heads)
    try:
        return OpenVinoGraph(str(path), precision, threads, heads, expected, streams)
    except Exception as error:  # all of openvino's errors are plain RuntimeErrors
        raise BundleError(f"{path}: openvino cannot load it: {error}") from error


def check_bf16(path: Path, offered: Sequence[str]) -> None:
    """Raise RuntimeRefused if OpenVINO does not offer bf16 on this CPU."""
    if "BF16" not in offered:
        raise RuntimeRefused(
            f"{path}: needs bf16, which OpenVINO does not support on this CPU (it supports"
            f" {', '.join(sorted(offered))}); set MSD_RUNTIME=onnxruntime to run it in fp32"
        )


def _inputs(compiled: Any, wanted: Set[str]) -> list[GraphInput]:  # noqa: ANN401
    return [
        GraphInput(
            name_of(port, wanted),
            _DTYPES.get(port.element_type.get_type_name(), port.element_type.get_type_name()),
            tuple(None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape),
        )
        for port in compiled.inputs
    ]


def _engine(path: Path, compiled: Any, asked: Precision) -> Engine:  # noqa: ANN401
    layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    found = {layer["runtimePrecision"].value for layer in layers if layer["layerType"].value in _PRODUCTS}
    got: Precision = "bf16" if "bf16" in found else "fp32"
    if got != asked or found - {"bf16", "f32"}:
        raise RuntimeRefused(
            f"{path}: {asked} was requested, but OpenVINO runs its matrix products in {', '.join(found) or 'nothing'};"
            " set MSD_RUNTIME=onnxruntime"
        )
    return Engine(
        name=NAME,
        version=load_openvino().__version__,
        provider="+".join(compiled.get_property("EXECUTION_DEVICES")).lower(),
        threads=compiled.get_property("INFERENCE_NUM_THREADS") // compiled.get_property("NUM_STREAMS"),
        precision=got,
        instructions=cpu_instructions(),
    )
