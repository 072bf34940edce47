"""Several requests in one run of the model, on the graph that a bundle may have for that; and whether it is used.

It is where to start a run costs more than what is saved by working once for each user: on a GPU. Does not know which
requests wait (`run_queue`).
"""

from collections.abc import Sequence

from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER, Bundle
from msd.contract.merge import candidates_of, merge, split
from msd.contract.schema import FeatureSchema
from service.runtimes.checks import TOGETHER
from service.runtimes.cuda import open_cuda
from service.runtimes.onnxruntime import NAME, OnnxRuntime
from service.runtimes.runtime import Engine, Runtime, RuntimeRefused, Scores
from service.settings import Settings


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
            f"{bundle.folder}: runs in {engine.precision} on {engine.name}, and requests together in fp32 on {NAME}:"
            " their scores would depend on who else asks; set MSD_MERGE=off"
        )
    runtime: Runtime
    if settings.provider == "cuda":
        runtime = open_cuda(bundle, settings.threads, TOGETHER)
    else:
        runtime = OnnxRuntime(bundle, settings.provider, settings.threads, TOGETHER)
    return Together(bundle.schema, runtime, settings.max_candidates)


def _pays(bundle: Bundle, engine: Engine) -> bool:
    return engine.provider == "cuda" and MERGED_RANKER in bundle.manifest.files
