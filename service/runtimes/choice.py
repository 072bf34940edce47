"""Choice of a bundle's runtime: the fastest here of the precisions that passed the export's gate."""

from collections.abc import Sequence

import structlog

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.errors import MsdError
from msd.contract.golden import golden_tensors, read_goldens, repeated
from msd.contract.precision import Precision, fastest
from msd.contract.rows import ROW_SIDES, RowCodec
from msd.contract.timing import median_microseconds
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.runtime import Runtime
from service.settings import Settings


def open_runtime(bundle: Bundle, settings: Settings, precision: Precision | None = None) -> Runtime:
    """Open the runtime: of the given precision, or of the fastest here.

    Several are timed in turns, for a second at most, on the first golden with the expected number of candidates.
    Raises RuntimeRefused if the requested one is unavailable, BundleError if graph and manifest disagree.
    """
    passed: Sequence[Precision] = bundle.precision.passed if settings.provider == "cpu" else ("fp32",)
    wanted = passed if precision is None else (precision,)
    opened: dict[Precision, Runtime] = {}
    for one in wanted:
        try:
            opened[one] = OnnxRuntime(bundle, settings.provider, settings.threads, one)
        except MsdError as error:
            if one == wanted[0]:
                raise
            structlog.get_logger("msd.model").info("precision_unavailable", precision=one, reason=str(error))
    if len(opened) == 1:
        return opened[wanted[0]]
    runs = {one: runtime.run for one, runtime in opened.items()}
    return opened[fastest(median_microseconds(runs, _tensors(bundle, settings.max_candidates)))]


def _tensors(bundle: Bundle, max_candidates: int) -> Tensors:
    golden = next(iter(read_goldens(bundle.path(GOLDENS))))
    users, items = (RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES)
    tensors = golden_tensors(bundle.schema, users, items, golden).tensors
    expected = bundle.precision.candidates
    return repeated(bundle.schema, tensors, expected if 0 < expected <= max_candidates else max_candidates)
