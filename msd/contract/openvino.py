"""A graph on OpenVINO, as export judges it and the service runs it.

OpenVINO compiles kernels for each new number of candidates, so candidates are padded to a few
sizes. Told the number beforehand it is faster still, so the graph is compiled twice: for any number, and for about the
one that is expected. Knows neither schemas nor bundles.
"""

import sys
import threading
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.tensors import Tensors

OpenVinoPrecision = Literal["fp32", "bf16"]
_HINTS: Mapping[OpenVinoPrecision, str] = {"fp32": "f32", "bf16": "bf16"}
# Rows that a CPU's matrix unit processes at once.
_TILE = 16
_SIZES_AN_OCTAVE = 4


def padded_size(count: int) -> int:
    """`count`, at least 1, rounded up to one of four sizes between each power of two and the next."""
    step = 1 << max(0, (count - 1).bit_length() - _SIZES_AN_OCTAVE.bit_length())
    return -(-count // step) * step


def load_openvino() -> Any:  # noqa: ANN401 - openvino says little of types
    """Import OpenVINO without its telemetry package, which would report every import. Raises ImportError."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:  # noqa: ANN401
    """Return this process's only Core, which also reads ONNX Runtime's `Inverse`. Raises ImportError.

    It stays for good: its CPU plugin gives the thread that loads it another signal stack, and unmaps that wherever it
    is freed itself. Freed by another thread, as after a swap, it would have the next signal end the process.
    """
    core = load_openvino().Core()
    core.add_extension(_inverse())
    return core


def _inverse() -> Any:  # noqa: ANN401
    """Return a translation of ONNX Runtime's operator, for which ONNX has none."""
    from openvino import opset14
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension(
        "Inverse", "com.microsoft", lambda node: [opset14.inverse(node.get_input(0), adjoint=False).output(0)]
    )


class _Bound(NamedTuple):
    """An OpenVINO infer request with bound input arrays."""

    request: Any
    inputs: dict[str, NDArray[Any]]


class _Local(threading.local):
    """Thread-local state: which inputs are the candidates', the name of one of them, and infer requests by size."""

    def __init__(self) -> None:
        self.names: dict[str, bool] = {}
        self.candidates = ""
        self.bound: dict[int, _Bound] = {}


class OpenVinoGraph:
    """Runs of one graph, `streams` at a time; each thread has its own arrays."""

    def __init__(
        self,
        graph: str | bytes,
        precision: OpenVinoPrecision,
        threads: int,
        heads: Sequence[str],
        expected: int = 0,
        streams: int = 1,
    ) -> None:
        """`graph`: a file or its content. `threads`: per run. `expected`: the usual number of candidates, 0 if unknown.

        Raises ImportError, or one of OpenVINO's RuntimeErrors for an invalid graph.
        """
        self._openvino = load_openvino()
        core = openvino_core()
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads * streams,
            # Threads that share a stream wait for each other.
            "NUM_STREAMS": streams,
            # Two pinning processes would share a core and leave others idle.
            "ENABLE_CPU_PINNING": False,
            # With snippets, 2026.4 fails at times ("topological order is required") for one and the same graph.
            "SNIPPETS_MODE": "DISABLE",
        }
        model = core.read_model(graph)
        self.compiled = core.compile_model(model, "CPU", options)
        self._fixed_size = -(-expected // _TILE) * _TILE
        if self._fixed_size:
            model.reshape({one.any_name: _shape(one, self._fixed_size) for one in model.inputs})
            self._fixed = core.compile_model(model, "CPU", options)
        self._heads = heads
        self._local = _Local()

    def size_of(self, count: int) -> int:
        """Return the padded size of a number of candidates: the expected number from three quarters of it on."""
        fixed = self._fixed_size
        return fixed if 3 * fixed < 4 * count <= 4 * fixed else padded_size(count)

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return the scores [N] by head of tensors by input name; other tensors are ignored."""
        local = self._local
        if not local.names:
            local.names = {name_of(one, tensors): _is_of_candidates(one) for one in self.compiled.inputs}
            local.candidates = next(name for name, is_of_candidates in local.names.items() if is_of_candidates)
        count = len(tensors[local.candidates])
        size = self.size_of(count)
        if size not in local.bound:
            local.bound[size] = self._bind(size, tensors)
        request, inputs = local.bound[size]
        for name, array in inputs.items():
            given = tensors[name]
            array[: len(given)] = given
            array[len(given) :] = 0
        found = request.infer()
        return {head: found[head][:count] for head in self._heads}

    def _bind(self, size: int, tensors: Tensors) -> _Bound:
        """Return an infer request of a size with its own bound arrays."""
        compiled = self._fixed if size == self._fixed_size else self.compiled
        request, inputs = compiled.create_infer_request(), {}
        for name, is_of_candidates in self._local.names.items():
            given = tensors[name]
            inputs[name] = np.zeros((size if is_of_candidates else len(given), *given.shape[1:]), given.dtype)
            request.set_tensor(name, self._openvino.Tensor(inputs[name], shared_memory=True))
        return _Bound(request, inputs)


def name_of(port: Any, wanted: Container[str]) -> str:  # noqa: ANN401
    """Return an input's wanted name: an input that a node passes through also has its output's names."""
    return str(next((name for name in port.names if name in wanted), port.any_name))


def _is_of_candidates(port: Any) -> bool:  # noqa: ANN401
    return bool(port.partial_shape[0].is_dynamic)


def _shape(port: Any, candidates: int) -> Any:  # noqa: ANN401
    shape = port.partial_shape
    if _is_of_candidates(port):
        shape[0] = candidates
    return shape
