"""ONNX Runtime on an NVIDIA card, its runs captured as CUDA graphs where ONNX Runtime can: then one call starts a whole
run, instead of one for each node.

It cannot where the graph branches or loops, or where a node that computes has to run on the CPU.
"""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from msd.contract.bundle import Bundle
from msd.contract.errors import BundleError
from service.runtimes.bound import BoundRuntime
from service.runtimes.checks import ALONE, GraphForm
from service.runtimes.onnxruntime import engine_of, open_session
from service.runtimes.runtime import Runtime

_CAPTURE = "enable_cuda_graph"
_PROVIDER = "CUDAExecutionProvider"
_NAME_BYTES = 256


def open_cuda(bundle: Bundle, threads: int, form: GraphForm = ALONE) -> Runtime:
    """Raises RuntimeRefused when CUDA is not to be had, BundleError when graph and manifest disagree."""
    return captured_or_not(lambda capture: _open(bundle, threads, capture, form))


def captured_or_not(open_: Callable[[bool], Runtime]) -> Runtime:
    """Opens with capture, and without where that fails, which the log tells.

    Raises BundleError when it cannot be opened without either.
    """
    try:
        return open_(True)
    except BundleError as error:
        runtime = open_(False)
        structlog.get_logger("msd.cuda").warning("cuda_graphs_refused", reason=str(error))
        return runtime


def try_capture(runtime: Runtime, bundle: Bundle, form: GraphForm = ALONE) -> None:
    """Runs once, of zeros. Raises BundleError where that fails: capture may still do so after the graph was taken."""
    users = {"item": 1, "user": form.requests, "context": form.requests}
    zeros = {spec.name: np.zeros((users[spec.side], *spec.shape), spec.dtype) for spec in form.inputs(bundle.schema)}
    try:
        runtime.run(zeros)
    except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
        raise BundleError(f"{bundle.path(form.file)}: a run of it cannot be captured: {error}") from error


def card_name() -> str:
    """The name of the card that CUDA takes first, as its driver tells it; empty without a driver."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    card = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    found = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(card), 0)
    return "" if found or driver.cuDeviceGetName(name, _NAME_BYTES, card) else name.value.decode()


def _open(bundle: Bundle, threads: int, capture: bool, form: GraphForm) -> Runtime:
    session = open_session(bundle.path(form.file), "cuda", threads, {_CAPTURE: str(int(capture))})
    engine = replace(engine_of(bundle, session, "cuda"), device=card_name(), graphs=_captures(session))
    runtime = BoundRuntime(bundle, session, "cuda", engine, form)
    if capture:
        try_capture(runtime, bundle, form)
    return runtime


def _captures(session: Any) -> bool:  # noqa: ANN401 - onnxruntime has no types
    return str(session.get_provider_options()[_PROVIDER].get(_CAPTURE)) == "1"
