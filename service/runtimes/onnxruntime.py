"""ONNX Runtime as a `Runtime`, on exactly the requested provider."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import Precision
from service.runtimes.runtime import Engine, GraphInput, RuntimeRefused, Scores, check_graph

NAME = "onnxruntime"
Provider = Literal["cpu", "cuda"]
_PROVIDERS: Mapping[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 keeps ten bits of a float's fraction, outside any fp32 tolerance.
_OPTIONS: Mapping[Provider, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
# The operator of int8 layers made by `msd export --precision int8`.
_IN_INT8 = b"MatMulIntegerToFloat"
_PART_BYTES = 2**18
_NAME_BYTES = 256
_DTYPES = {"tensor(int32)": "int32", "tensor(float)": "float32"}


class OnnxRuntime:
    def __init__(self, bundle: Bundle, provider: Provider, threads: int) -> None:
        """Raises RuntimeRefused if the provider is unavailable, BundleError if graph and manifest disagree."""
        self._session = open_session(bundle.path(RANKER), provider, threads)
        outputs = [output.name for output in self._session.get_outputs()]
        self._heads = check_graph(bundle, inputs_of(self._session), outputs)
        self.engine = engine_of(bundle, self._session, provider)

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return dict(zip(self._heads, self._session.run(self._heads, tensors), strict=True))

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return only the largest: its memory is kept, and other shapes need no preparation."""
        return (max_candidates,)


def open_session(model: Path, provider: Provider, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return a session of a file. Raises RuntimeRefused or BundleError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeRefused(
            "no onnxruntime is installed: pip install 'msd-ctr[cpu]', or 'msd-ctr[gpu]' on a machine with CUDA"
        ) from error
    wanted = _PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise RuntimeRefused(
            f"provider {provider!r} is unavailable; this onnxruntime has only {', '.join(available)}: "
            + _remedy(provider)
        )
    of_session = onnxruntime.SessionOptions()
    of_session.intra_op_num_threads = threads
    of_session.inter_op_num_threads = 1
    of_session.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    of_session.log_severity_level = 3
    providers = [(wanted, _OPTIONS[provider])]
    try:
        session = onnxruntime.InferenceSession(str(model), of_session, providers=providers)
    except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
        raise BundleError(f"{model}: onnxruntime cannot load it: {error}") from error
    got = session.get_providers()[0]
    if got != wanted:
        raise RuntimeRefused(f"provider {provider!r} was requested, but onnxruntime chose {got}: {_remedy(provider)}")
    return session


def _remedy(provider: Provider) -> str:
    if provider == "cuda":
        return "uninstall onnxruntime, pip install 'msd-ctr[gpu]' and check the CUDA driver, or set MSD_PROVIDER=cpu"
    return "pip install 'msd-ctr[cpu]'"


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


def inputs_of(session: Any) -> list[GraphInput]:  # noqa: ANN401
    return [
        GraphInput(
            given.name,
            _DTYPES.get(given.type, given.type),
            tuple(axis if isinstance(axis, int) else None for axis in given.shape),
        )
        for given in session.get_inputs()
    ]


def _precision(path: Path) -> Precision:
    """Return a loaded graph's precision. It reads small parts: scanning a large graph at once would hold Python's
    lock."""
    before = b""
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            if _IN_INT8 in before + part:
                return "int8"
            before = part[-len(_IN_INT8) :]
    return "fp32"


def engine_of(bundle: Bundle, session: Any, provider: Provider) -> Engine:  # noqa: ANN401
    """Return what a session actually uses. Raises RuntimeRefused for int8 off a CPU with VNNI, BundleError for a
    precision that differs from the manifest's."""
    import onnxruntime

    path, instructions = bundle.path(RANKER), cpu_instructions() if provider == "cpu" else ()
    precision, wanted = _precision(path), bundle.precision.chosen
    if (precision == "int8") != (wanted == "int8"):
        raise BundleError(f"{path}: the graph is in {precision}, but the manifest says {wanted}")
    if precision == "int8" and (provider != "cpu" or not adds_int8_exactly(instructions)):
        raise RuntimeRefused(
            f"{path}: quantised for CPUs with VNNI, but this is {provider} ({' '.join(instructions) or 'unknown'}):"
            " its scores would differ from those measured at export; export with --precision fp32"
        )
    return Engine(
        name=NAME,
        version=onnxruntime.__version__,
        provider=provider,
        threads=session.get_session_options().intra_op_num_threads,
        precision=precision,
        instructions=instructions,
        device=card_name() if provider == "cuda" else "",
    )
