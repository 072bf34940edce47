"""A bundle's ranker, plain and factorised, with requests from its goldens.

If the export has already factorised it, the pass finds nothing more. The manifest has the plain graph's time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lab.race.runners import Runner, in_onnxruntime, in_openvino
from lab.reference.inputs import Feeds
from model_export.errors import ExportError
from model_export.factorise.pass_ import factorise
from model_export.precision.int8 import check_int8
from msd.contract.bundle import GOLDENS, RANKER, Bundle, open_bundle
from msd.contract.errors import BundleError
from msd.contract.golden import golden_tensors, read_goldens
from msd.contract.instructions import cpu_instructions
from msd.contract.rows import RowCodec


@dataclass(frozen=True)
class RacedRanker:
    """Both graphs of a bundle's ranker, and one real request."""

    bundle: Bundle
    plain: onnx.ModelProto
    passed: onnx.ModelProto
    golden: Feeds

    def as_json(self) -> dict[str, Any]:
        """Return the bundle's ID and precision, and its export's record of the graph, if any."""
        manifest = self.bundle.manifest
        return {
            "bundle_id": manifest.bundle_id,
            "precision": self.bundle.precision.chosen,
            "at_export": manifest.provenance.get("graph"),
        }

    def opened(self, graph: onnx.ModelProto) -> Runner:
        """Open one of the graphs as the service runs the bundle. Raises ExportError if this machine cannot."""
        precision = self.bundle.precision
        if precision.chosen == "bf16":
            return in_openvino(graph, "bf16", precision.candidates)
        if precision.chosen == "int8":
            check_int8(cpu_instructions())
        return in_onnxruntime(graph)

    def request(self, candidates: int) -> Feeds:
        """Return the request with its candidates repeated to that number."""
        of_item = {spec.name for spec in self.bundle.schema.tensors if spec.side == "item"}
        return {
            name: value[np.arange(candidates) % len(value)] if name in of_item else value
            for name, value in self.golden.items()
        }


def ranker_of(folder: Path) -> RacedRanker:
    """Load a bundle's ranker. Raises BundleError if the bundle is invalid."""
    bundle = open_bundle(folder)
    golden = next(read_goldens(bundle.path(GOLDENS)), None)
    if golden is None:
        raise BundleError(f"{bundle.path(GOLDENS)}: has no golden, so there is no request to time; export again")
    path = bundle.path(RANKER)
    plain = onnx.load(path)
    try:
        passed = factorise(plain, {spec.name: spec.side for spec in bundle.schema.tensors}).model
    except ExportError as error:
        raise BundleError(f"{path}: cannot be factorised: {error}") from None
    users, items = (RowCodec(bundle.schema, side, bundle.bundle_id) for side in ("user", "item"))
    return RacedRanker(
        bundle=bundle,
        plain=plain,
        passed=passed,
        golden=dict(golden_tensors(bundle.schema, users, items, golden).tensors),
    )
