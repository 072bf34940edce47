"""ONNX Runtime on an NVIDIA GPU, with runs captured as CUDA graphs if possible: one call starts a whole run.

Capture fails if the graph branches or loops, or if a computing node has to run on the CPU. A captured graph reads and
writes the buffers of its capture, and belongs to the capturing thread. So there are buffers for each of a few padded
sizes, and one thread makes all runs.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.openvino import padded_size
from service.runtimes.onnxruntime import Provider, engine_of, inputs_of, new_buffer, open_session, run_options
from service.runtimes.runtime import Engine, Runtime, Scores, check_graph

_CAPTURE = "enable_cuda_graph"
_PROVIDER = "CUDAExecutionProvider"
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class _Size:
    """Bound buffers of one size, by input and by head."""

    binding: Any
    options: Any
    inputs: Mapping[str, Any]
    scores: Mapping[str, Any]


class BoundRuntime:
    """Runs of one session, one at a time for all callers."""

    def __init__(
        self,
        bundle: Bundle,
        session: Any,  # noqa: ANN401
        device: Provider,
        engine: Engine,
    ) -> None:
        """Raises BundleError if graph and manifest disagree."""
        self.engine = engine
        self._session, self._device = session, device
        outputs = [output.name for output in session.get_outputs()]
        self._heads = check_graph(bundle, RANKER, inputs_of(session), outputs)
        tensors = bundle.schema.tensors
        self._of_candidates = [spec for spec in tensors if spec.side == "item"]
        self._candidate_inputs = [spec.name for spec in self._of_candidates]
        # User inputs have one shape, so all sizes share them.
        self._shared = {
            spec.name: new_buffer((1, *spec.shape), spec.dtype, device) for spec in tensors if spec.side != "item"
        }
        self._sizes: dict[int, _Size] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bound")

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return self._thread.submit(self._run, tensors).result()

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return every padded size."""
        return list(padded_sizes(max_candidates))

    def _run(self, tensors: Tensors) -> Scores:
        count = len(tensors[self._candidate_inputs[0]])
        given = pad_candidates(tensors, self._candidate_inputs)
        size = self._bound_to(padded_size(count))
        for name, buffer in size.inputs.items():
            buffer.update_inplace(given[name])
        # A copy to the GPU may still be in progress.
        size.binding.synchronize_inputs()
        self._session.run_with_iobinding(size.binding, size.options)
        # Copied, because on a CPU this is the buffer itself.
        return {head: buffer.numpy()[:count].copy() for head, buffer in size.scores.items()}

    def _bound_to(self, count: int) -> _Size:
        """Return the buffers of a size, made on first use."""
        if count not in self._sizes:
            inputs = self._shared | {
                spec.name: new_buffer((count, *spec.shape), spec.dtype, self._device) for spec in self._of_candidates
            }
            scores = {head: new_buffer((count,), "float32", self._device) for head in self._heads}
            binding = self._session.io_binding()
            for name, buffer in inputs.items():
                binding.bind_ortvalue_input(name, buffer)
            for head, buffer in scores.items():
                binding.bind_ortvalue_output(head, buffer)
            # The CUDA provider keeps one graph per such ID; other providers ignore it.
            options = run_options({"gpu_graph_id": str(count)})
            self._sizes[count] = _Size(binding, options, inputs, scores)
        return self._sizes[count]


def open_cuda(bundle: Bundle, threads: int) -> Runtime:
    """Open the runtime. Raises RuntimeRefused if CUDA is unavailable, BundleError if graph and manifest disagree."""
    return captured_or_not(lambda capture: _open(bundle, threads, capture))


def captured_or_not(open_: Callable[[bool], Runtime]) -> Runtime:
    """Open with capture, or without if that fails, which is logged. Raises BundleError if both fail."""
    try:
        return open_(True)
    except BundleError as error:
        runtime = open_(False)
        structlog.get_logger("msd.cuda").warning("cuda_graphs_refused", reason=str(error))
        return runtime


def try_capture(runtime: Runtime, bundle: Bundle) -> None:
    """Run once on zeros. Raises BundleError if that fails: capture can fail after the graph was loaded."""
    zeros = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in bundle.schema.tensors}
    try:
        runtime.run(zeros)
    except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
        raise BundleError(f"{bundle.path(RANKER)}: a run of it cannot be captured: {error}") from error


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


def _open(bundle: Bundle, threads: int, capture: bool) -> Runtime:
    session = open_session(bundle.path(RANKER), "cuda", threads, {_CAPTURE: str(int(capture))})
    engine = replace(engine_of(bundle, session, "cuda"), device=card_name(), graphs=_captures(session))
    runtime = BoundRuntime(bundle, session, "cuda", engine)
    if capture:
        try_capture(runtime, bundle)
    return runtime


def _captures(session: Any) -> bool:  # noqa: ANN401 - onnxruntime has no types
    return str(session.get_provider_options()[_PROVIDER].get(_CAPTURE)) == "1"


def padded_sizes(most: int) -> Iterator[int]:
    """Yield the sizes that numbers from 1 to `most` are rounded up to, the smallest first."""
    size = 0
    while size < most:
        size = padded_size(size + 1)
        yield size


def pad_candidates(tensors: Tensors, candidate_inputs: Iterable[str]) -> Tensors:
    """Return contiguous tensors, with the candidates' padded by rows of zeros."""
    padded = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    for name in candidate_inputs:
        tensor = padded[name]
        size = padded_size(len(tensor))
        if size != len(tensor):
            padded[name] = np.zeros((size, *tensor.shape[1:]), tensor.dtype)
            padded[name][: len(tensor)] = tensor
    return padded
