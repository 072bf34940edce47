"""Which runtime runs a bundle: the one that its manifest names, unless a setting names another."""

from msd.contract.bundle import Bundle
from service.runtimes.cuda import open_cuda
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import Runtime, RuntimeRefused
from service.settings import Settings


def expected_candidates(bundle: Bundle, max_candidates: int) -> int:
    """How many a request was expected to have when the bundle was exported; 0 for more than any may have here."""
    expected = bundle.precision.candidates
    return expected if expected <= max_candidates else 0


def open_runtime(bundle: Bundle, settings: Settings) -> Runtime:
    """Raises RuntimeRefused when what is asked for cannot be had, BundleError when graph and manifest disagree."""
    wanted = bundle.precision
    runtime = wanted.runtime if settings.runtime == "auto" else settings.runtime
    if runtime == "onnxruntime":
        # A graph for bf16 is a graph in fp32, which ONNX Runtime runs as what it is.
        if settings.provider == "cuda":
            return open_cuda(bundle, settings.threads)
        return OnnxRuntime(bundle, settings.provider, settings.threads)
    if settings.provider != "cpu":
        raise RuntimeRefused(
            f"{bundle.folder}: was made for {wanted.chosen} on OpenVINO, which has no {settings.provider}; set"
            " MSD_RUNTIME=onnxruntime to run it in fp32, or MSD_PROVIDER=cpu"
        )
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, wanted.chosen, settings.threads, expected, settings.workers or 1)
