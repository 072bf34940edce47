"""ONNX Runtime as a `Runtime`, on exactly the requested provider.

On CPUs it is called by its C interface, from the library in its wheel, whose Python module is not loaded. On CUDA it is
called by that module.
"""

import ctypes
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

import native
from msd.contract.bundle import RANKER, RANKER_INT8, Bundle
from msd.contract.errors import BundleError
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import Precision
from msd.contract.tensors import Tensors
from service.runtimes.runtime import Engine, GraphInput, RuntimeRefused, Scores, check_graph

NAME = "onnxruntime"
Provider = Literal["cpu", "cuda"]
_CUDA = "CUDAExecutionProvider"
# TF32 keeps ten bits of a float's fraction, outside any fp32 tolerance.
_CUDA_OPTIONS = {"use_tf32": "0"}
_NAME_BYTES = 256
_DTYPES = {"tensor(int32)": "int32", "tensor(float)": "float32"}
_REMEDIES: Mapping[Provider, str] = {
    "cpu": "pip install 'msd-ctr[cpu]'",
    "cuda": "uninstall onnxruntime, pip install 'msd-ctr[gpu]' and check the CUDA driver, or set MSD_PROVIDER=cpu",
}


class Session(Protocol):
    """A loaded graph. Any thread may run it, and several at once."""

    inputs: list[GraphInput]
    outputs: list[str]
    version: str
    """Of the runtime."""

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], is_aside: bool = False
    ) -> list[NDArray[Any]]:
        """Return the named outputs. `is_aside`: a CPU runs it at low priority."""
        ...


class OnnxRuntime:
    def __init__(self, bundle: Bundle, provider: Provider, threads: int, precision: Precision = "fp32") -> None:
        """Raises RuntimeRefused if provider or precision is unavailable, BundleError if graph and manifest disagree."""
        instructions = cpu_instructions() if provider == "cpu" else ()
        path = bundle.path(RANKER)
        if precision == "int8":
            path = bundle.path(RANKER_INT8)
            check_int8(path, provider, instructions)
        self._session = open_session(path, provider, threads)
        self._heads = check_graph(bundle, self._session.inputs, self._session.outputs)
        self.engine = Engine(
            name=NAME,
            version=self._session.version,
            provider=provider,
            threads=threads,
            precision=precision,
            instructions=instructions,
            device=card_name() if provider == "cuda" else "",
        )
        self.native = self._session.native if isinstance(self._session, CpuSession) else None

    def run(self, tensors: Tensors, is_aside: bool = False) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return dict(zip(self._heads, self._session.run(self._heads, tensors, is_aside), strict=True))

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return only the largest: its memory is kept, and other shapes need no preparation."""
        return (max_candidates,)


class CpuSession:
    """A graph on the CPU."""

    def __init__(self, model: Path, threads: int) -> None:
        """Raises RuntimeRefused or BundleError."""
        if native.core is None:
            raise RuntimeRefused(f"ONNX Runtime needs the native core: {native.REASON}")
        library = _library()
        try:
            self.native = native.core.OrtModel(bytes(library), bytes(model), threads)
        except RuntimeError as error:
            raise BundleError(f"{model}: onnxruntime cannot load it: {error}") from error
        self.inputs = [
            GraphInput(name, dtype, tuple(None if axis < 0 else axis for axis in shape))
            for name, dtype, shape in self.native.inputs
        ]
        self.outputs = [name for name, _, _ in self.native.outputs]
        self.version: str = self.native.version

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], is_aside: bool = False
    ) -> list[NDArray[Any]]:
        """Return the named outputs. Raises RuntimeError."""
        arrays = [(name, np.ascontiguousarray(array)) for name, array in inputs.items()]
        described = tuple((name, array, array.dtype.char, array.shape) for name, array in arrays)
        return [
            np.frombuffer(content, dtype).reshape(shape)
            for content, dtype, shape in self.native.run(tuple(outputs), described, is_aside)
        ]


class CudaSession:
    """A graph on a GPU."""

    def __init__(self, model: Path, threads: int) -> None:
        """Raises RuntimeRefused or BundleError."""
        try:
            import onnxruntime
        except ImportError as error:
            raise _not_installed() from error
        available = onnxruntime.get_available_providers()
        if _CUDA not in available:
            raise RuntimeRefused(
                f"provider 'cuda' is unavailable; this onnxruntime has only {', '.join(available)}: {_REMEDIES['cuda']}"
            )
        of_session = onnxruntime.SessionOptions()
        of_session.intra_op_num_threads = threads
        of_session.inter_op_num_threads = 1
        of_session.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        of_session.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(model), of_session, providers=[(_CUDA, _CUDA_OPTIONS)])
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            raise BundleError(f"{model}: onnxruntime cannot load it: {error}") from error
        got = session.get_providers()[0]
        if got != _CUDA:
            raise RuntimeRefused(f"provider 'cuda' was requested, but onnxruntime chose {got}: {_REMEDIES['cuda']}")
        self._session = session
        self.inputs = [
            GraphInput(
                given.name,
                _DTYPES.get(given.type, given.type),
                tuple(axis if isinstance(axis, int) else None for axis in given.shape),
            )
            for given in session.get_inputs()
        ]
        self.outputs = [output.name for output in session.get_outputs()]
        self.version: str = onnxruntime.__version__

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], is_aside: bool = False
    ) -> list[NDArray[Any]]:
        """Return the named outputs."""
        found: list[NDArray[Any]] = self._session.run(list(outputs), inputs)
        return found


def open_session(model: Path, provider: Provider, threads: int) -> Session:
    """Return a session of a file. Raises RuntimeRefused or BundleError."""
    return CpuSession(model, threads) if provider == "cpu" else CudaSession(model, threads)


def _library() -> Path:
    """Return the runtime's library in its wheel. Raises RuntimeRefused."""
    spec = find_spec("onnxruntime")
    folders = [] if spec is None or spec.submodule_search_locations is None else spec.submodule_search_locations
    for folder in folders:
        for pattern in ("libonnxruntime.so*", "libonnxruntime.*dylib"):
            for path in sorted((Path(folder) / "capi").glob(pattern)):
                return path
    raise _not_installed()


def _not_installed() -> RuntimeRefused:
    return RuntimeRefused(
        "no onnxruntime is installed: pip install 'msd-ctr[cpu]', or 'msd-ctr[gpu]' on a machine with CUDA"
    )


def card_name() -> str:
    """Return the name of CUDA's first GPU from its driver; empty without a driver."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    card = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    found = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(card), 0)
    return "" if found or driver.cuDeviceGetName(name, _NAME_BYTES, card) else name.value.decode()


def check_int8(path: Path, provider: Provider, instructions: tuple[str, ...]) -> None:
    """Raise RuntimeRefused for int8 off a CPU with VNNI."""
    if provider != "cpu" or not adds_int8_exactly(instructions):
        raise RuntimeRefused(
            f"{path}: quantised for CPUs with VNNI, but this is {provider} ({' '.join(instructions) or 'unknown'}):"
            " its scores would differ from those measured at export; export with --precision fp32 or auto"
        )
