"""Choice of a bundle's runtime: the fastest here of the precisions that passed the export's gate."""

import structlog

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.errors import MsdError
from msd.contract.golden import golden_tensors, read_goldens, repeated
from msd.contract.precision import RUNTIMES, Precision, fastest
from msd.contract.rows import ROW_SIDES, RowCodec
from msd.contract.timing import median_microseconds
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

    Several are timed in turns, for a second at most, on the first golden with the expected number of candidates.
    Raises RuntimeRefused if the requested one is unavailable, BundleError if graph and manifest disagree.
    """
    wanted = _wanted(bundle, settings) if precision is None else [precision]
    opened: dict[Precision, Runtime] = {}
    for one in wanted:
        try:
            opened[one] = _open(bundle, settings, one)
        except MsdError as error:
            if one == wanted[0]:
                raise
            structlog.get_logger("msd.model").info("precision_unavailable", precision=one, reason=str(error))
    if len(opened) == 1:
        return opened[wanted[0]]
    runs = {one: runtime.run for one, runtime in opened.items()}
    return opened[fastest(median_microseconds(runs, _tensors(bundle, settings.max_candidates)))]


def _wanted(bundle: Bundle, settings: Settings) -> list[Precision]:
    """Return the precisions to choose from, fp32 first if it is one of several."""
    if settings.provider != "cpu":
        return ["fp32"]
    passed = bundle.precision.passed
    if settings.runtime == "auto":
        return list(passed)
    return [one for one in passed if RUNTIMES[one] == settings.runtime] or ["fp32"]


def _open(bundle: Bundle, settings: Settings, precision: Precision) -> Runtime:
    runtime = RUNTIMES[precision] if settings.runtime == "auto" else settings.runtime
    if runtime == "onnxruntime" or precision == "int8":
        return OnnxRuntime(bundle, settings.provider, settings.threads, precision)
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, precision, settings.threads, expected, settings.workers or 1)


def _tensors(bundle: Bundle, max_candidates: int) -> Tensors:
    golden = next(iter(read_goldens(bundle.path(GOLDENS))))
    users, items = (RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES)
    tensors = golden_tensors(bundle.schema, users, items, golden).tensors
    return repeated(bundle.schema, tensors, expected_candidates(bundle, max_candidates) or max_candidates)
