"""Choice of a bundle's runtime: the fastest here of the precisions that passed the export's gate."""

import structlog

from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.contract.precision import RUNTIMES, Precision, fastest
from msd.contract.timing import median_microseconds
from native.layout import new_tensors
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import Runtime
from service.settings import Settings


def expected_candidates(bundle: Bundle, max_candidates: int) -> int:
    """Return the expected number of candidates at export; 0 if it exceeds the maximum here."""
    expected = bundle.precision.candidates
    return expected if expected <= max_candidates else 0


def open_runtime(bundle: Bundle, settings: Settings, precision: Precision | None = None) -> Runtime:
    """Open the runtime: of the given precision, or of the fastest here.

    Several are timed in turns, for a second at most, with the expected number of candidates.
    Raises RuntimeRefused if the requested one is unavailable, BundleError if graph and manifest disagree.
    """
    wanted = _wanted(bundle, settings) if precision is None else [precision]
    opened: dict[Precision, Runtime] = {}
    for name in wanted:
        try:
            opened[name] = _open(bundle, settings, name)
        except MsdError as error:
            if name == wanted[0]:
                raise
            structlog.get_logger("msd.model").info("precision_unavailable", precision=name, reason=str(error))
    if len(opened) == 1:
        return opened[wanted[0]]
    runs = {name: runtime.run for name, runtime in opened.items()}
    # Of zeros: a run takes equally long whatever the values.
    tensors = new_tensors(
        bundle.schema, expected_candidates(bundle, settings.max_candidates) or settings.max_candidates
    )
    return opened[fastest(median_microseconds(runs, tensors))]


def _wanted(bundle: Bundle, settings: Settings) -> list[Precision]:
    """Return the precisions to choose from, fp32 first if it is one of several."""
    if settings.provider != "cpu":
        return ["fp32"]
    passed = bundle.precision.passed
    if settings.runtime == "auto":
        return list(passed)
    return [name for name in passed if RUNTIMES[name] == settings.runtime] or ["fp32"]


def _open(bundle: Bundle, settings: Settings, precision: Precision) -> Runtime:
    runtime = RUNTIMES[precision] if settings.runtime == "auto" else settings.runtime
    if runtime == "onnxruntime" or precision == "int8":
        return OnnxRuntime(bundle, settings.provider, settings.threads, precision)
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, precision, settings.threads, expected, settings.workers or 1)
