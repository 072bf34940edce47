"""Choice of a bundle's runtime, and of shared runs.

A bundle's manifest names its runtime, unless a setting names another. Sharing a run pays if starting one costs more
than sharing the user's work saves: on a GPU. Does not know which requests wait (`run_queue`).
"""

from collections.abc import Sequence

from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER, Bundle
from msd.contract.merge import candidates_of, merge, split
from msd.contract.schema import FeatureSchema
from service.runtimes.cuda import open_cuda
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import LEAN, TOGETHER, Engine, Runtime, RuntimeRefused, Scores
from service.settings import Settings


def expected_candidates(bundle: Bundle, max_candidates: int) -> int:
    """Return the expected number of candidates at export; 0 if it exceeds the maximum here."""
    expected = bundle.precision.candidates
    return expected if expected <= max_candidates else 0


def open_runtime(bundle: Bundle, settings: Settings) -> Runtime:
    """Open the runtime. Raises RuntimeRefused if the requested one is unavailable, BundleError if graph and manifest
    disagree."""
    wanted = bundle.precision
    runtime = wanted.runtime if settings.runtime == "auto" else settings.runtime
    if runtime == "onnxruntime":
        # A bf16 bundle's graph is stored in fp32, which ONNX Runtime runs as it is.
        if settings.provider == "cuda":
            return open_cuda(bundle, settings.threads)
        return OnnxRuntime(bundle, settings.provider, settings.threads)
    if settings.provider != "cpu":
        raise RuntimeRefused(
            f"{bundle.folder}: made for {wanted.chosen} on OpenVINO, which does not support {settings.provider}; set"
            " MSD_RUNTIME=onnxruntime to run it in fp32, or MSD_PROVIDER=cpu"
        )
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, wanted.chosen, settings.threads, expected, settings.workers or 1)


def open_lean(bundle: Bundle, settings: Settings) -> Runtime:
    """Open the lean graph, which is in fp32 for ONNX Runtime on a CPU. Raises RuntimeRefused or BundleError."""
    return OnnxRuntime(bundle, "cpu", settings.threads, LEAN)


class Together:
    """Runs of up to `most` requests, of `most_rows` candidates in all. `runtime` runs the merged graph."""

    most = TOGETHER.requests

    def __init__(self, schema: FeatureSchema, runtime: Runtime, most_rows: int) -> None:
        self.most_rows = most_rows
        self._schema = schema
        self._runtime = runtime

    def run(self, requests: Sequence[Tensors]) -> list[Scores]:
        """The schema's tensors of each request → its scores [N] by head."""
        # The number of users is constant, because buffers are bound.
        merged = merge(self._schema, requests, rows=self.most)
        return list(split(self._runtime.run(merged), candidates_of(self._schema, requests)))

    def warm_up_sizes(self) -> Sequence[int]:
        """Return the numbers of candidates to warm up, so that no request pays for it."""
        return self._runtime.warm_up_sizes(self.most_rows)


def open_together(bundle: Bundle, engine: Engine, settings: Settings) -> Together | None:
    """Return None if requests are run one by one: on a CPU, or if the bundle was not exported with `--merged`.

    `engine`: runs single requests.
    """
    if engine.provider != "cuda" or MERGED_RANKER not in bundle.manifest.files:
        return None
    return Together(bundle.schema, open_cuda(bundle, settings.threads, TOGETHER), settings.max_candidates)
