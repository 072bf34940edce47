"""Choice of a bundle's runtime: the one that its manifest names, unless a setting names another."""

from msd.contract.bundle import Bundle
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import Runtime, RuntimeRefused
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
        return OnnxRuntime(bundle, settings.provider, settings.threads)
    if settings.provider != "cpu":
        raise RuntimeRefused(
            f"{bundle.folder}: made for {wanted.chosen} on OpenVINO, which does not support {settings.provider}; set"
            " MSD_RUNTIME=onnxruntime to run it in fp32, or MSD_PROVIDER=cpu"
        )
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, wanted.chosen, settings.threads, expected, settings.workers or 1)
