"""Which runtime runs a bundle, whether several requests share a run, and how long recent runs took, by their numbers of
candidates.

A bundle's manifest names its runtime, unless a setting names another. Sharing a run pays where starting one costs more
than is saved by working once for each user: on a GPU. Does not know which requests wait (`run_queue`).
"""

import threading
from collections import Counter as Tally
from collections.abc import Sequence

from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER, Bundle
from msd.contract.merge import candidates_of, merge, split
from msd.contract.schema import FeatureSchema
from service.runtimes.cuda import open_cuda
from service.runtimes.onnxruntime import NAME, OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import TOGETHER, Engine, Runtime, RuntimeRefused, Scores
from service.settings import Settings

# What is expected is exceeded by every other: of those that begin, all but few are to end in time.
SURE = 0.7
# Of what a run takes, the part that is supposed not to depend on the number of candidates, until it is learned.
_FIXED = 0.3
# The first runs of a size are slower than those that follow.
_ENOUGH, _FADES, _FADES_SOON = 5, 0.98, 0.7


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
            f"{bundle.folder}: made for {wanted.chosen} on OpenVINO, which does not support {settings.provider}; set"
            " MSD_RUNTIME=onnxruntime to run it in fp32, or MSD_PROVIDER=cpu"
        )
    expected = expected_candidates(bundle, settings.max_candidates)
    return OpenVinoRuntime(bundle, wanted.chosen, settings.threads, expected, settings.workers or 1)


class Together:
    """Runs of up to `most` requests, of `most_rows` candidates in all. `runtime` runs the merged graph."""

    most = TOGETHER.requests

    def __init__(self, schema: FeatureSchema, runtime: Runtime, most_rows: int) -> None:
        self.most_rows = most_rows
        self._schema = schema
        self._runtime = runtime

    def run(self, requests: Sequence[Tensors]) -> list[Scores]:
        """The schema's tensors of each request → its scores [N] by head."""
        # As many users each time: for buffers that are bound, the number may not change.
        merged = merge(self._schema, requests, rows=self.most)
        return list(split(self._runtime.run(merged), candidates_of(self._schema, requests)))

    def warm_up_sizes(self) -> Sequence[int]:
        """The numbers of candidates to run once each, so that no request pays for it."""
        return self._runtime.warm_up_sizes(self.most_rows)


def open_together(bundle: Bundle, engine: Engine, settings: Settings) -> Together | None:
    """None where requests are run one by one: always on a CPU, unless it is asked for.

    `engine`: what runs the bundle's requests alone. Raises RuntimeRefused when it is asked for and cannot be had.
    """
    if settings.merge == "off" or (settings.merge == "auto" and not _pays(bundle, engine)):
        return None
    if MERGED_RANKER not in bundle.manifest.files:
        raise RuntimeRefused(f"{bundle.folder}: has no {MERGED_RANKER}: export it with --merged, or set MSD_MERGE=off")
    if (engine.name, engine.precision) != (NAME, "fp32"):
        raise RuntimeRefused(
            f"{bundle.folder}: runs in {engine.precision} on {engine.name}, but shared runs need fp32 on {NAME}:"
            " otherwise scores would depend on other requests; set MSD_MERGE=off"
        )
    runtime: Runtime
    if settings.provider == "cuda":
        runtime = open_cuda(bundle, settings.threads, TOGETHER)
    else:
        runtime = OnnxRuntime(bundle, settings.provider, settings.threads, TOGETHER)
    return Together(bundle.schema, runtime, settings.max_candidates)


def _pays(bundle: Bundle, engine: Engine) -> bool:
    return engine.provider == "cuda" and MERGED_RANKER in bundle.manifest.files


class Runner:
    """What the queue runs: one model's runtime, and what it learned of its times, which are no other model's."""

    __slots__ = ("run_s", "runtime", "together", "turn_s")

    def __init__(self, runtime: Runtime, together: Together | None = None) -> None:
        self.runtime = runtime
        self.together = together
        """What runs several requests at once, where that pays."""
        self.run_s = LearnedSeconds(share=0.25, most=4.0, least_s=0.02)
        """How long one run takes."""
        self.turn_s = LearnedSeconds(share=0.1, most=4.0)
        """How long until its thread can begin the next: with what other threads and processes take meanwhile."""


class LearnedSeconds:
    """How long something takes of late, by the length of the number of candidates in bits.

    The newest has this share; it counts as at most so many times what was known, or as `least_s` if that is more: the
    machine may have stood still. Scoring threads and the event loop share it.
    """

    __slots__ = ("_least_s", "_lock", "_most", "_seconds", "_share", "_times")

    def __init__(self, share: float, most: float, least_s: float = 0.0) -> None:
        self._share, self._most, self._least_s = share, most, least_s
        self._seconds: dict[int, float] = {}
        self._times: Tally[int] = Tally()
        self._lock = threading.Lock()

    def of(self, rows: int, unknown: float) -> float:
        """Seconds for so many candidates."""
        # A single look at a dict needs no lock.
        return self._seconds.get(rows.bit_length(), unknown)

    def fitting(self, rows: int, seconds: float) -> int:
        """How many of so many candidates can be expected to be done in that time: all of them where it is not known,
        else three at least, or 0.
        """
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size)
            if known is None or known <= seconds:
                return rows
            # What was learned may be of another time: the more often it is believed, the less it counts.
            self._seconds[size] = known * (_FADES if self._times[size] >= _ENOUGH else _FADES_SOON)
            for bits in range(size - 1, 1, -1):
                fewer = (1 << bits) - 1
                if self._seconds.get(bits, known * (_FIXED + (1 - _FIXED) * fewer / rows)) <= seconds:
                    return fewer
            return 0

    def learn(self, rows: int, seconds: float) -> None:
        """So long it took."""
        size = rows.bit_length()
        with self._lock:
            known = self._seconds.get(size, seconds)
            self._seconds[size] = known + (min(seconds, max(self._most * known, self._least_s)) - known) * self._share
            self._times[size] += 1
