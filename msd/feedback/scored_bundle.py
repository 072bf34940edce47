"""A bundle that scores logged requests again by the contract's reference: its own graph in ONNX Runtime, from its own
rows. Needs no training data, and no other bundle's schema."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from msd.contract.assemble import assemble, wanted_items
from msd.contract.bundle import RANKER, ROWS, open_bundle
from msd.contract.correction import HEAD, Correction
from msd.contract.request import RequestError, parse_request
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec

Scores = Mapping[str, NDArray[np.float32]]
_SAMPLE = 1_000


class ScoredBundle:
    """An open bundle. `refused` counts requests that its schema does not accept; `seconds` are those of each scored
    request, from its parsed body to its scores."""

    def __init__(self, folder: Path, corrections: Mapping[str, Correction] | None = None) -> None:
        """Open and verify the bundle. `corrections`: what services correct pctr by. Raises BundleError."""
        self.bundle = open_bundle(folder)
        self.refused = 0
        self.seconds: list[float] = []
        manifest = self.bundle.manifest
        self._correction = (corrections or {}).get(manifest.bundle_id)
        codecs = {side: RowCodec(self.bundle.schema, side, manifest.bundle_id) for side in ROW_SIDES}
        self._users, self._items = (
            RowFile(self.bundle.path(ROWS[side]), codec, manifest.bundle_id) for side, codec in codecs.items()
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(self.bundle.path(RANKER))
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @property
    def data_until(self) -> float:
        """When the counts in its items' rows end (Unix s): about the latest event that it was trained on."""
        ids = [one for one, _ in self._items.scan(0, _SAMPLE)]
        return float(self._items.get(ids).records["as_of"].max(initial=0.0))

    def score(self, row: Mapping[str, Any]) -> Scores | None:
        """Return the scores [N] by head of a logged request's candidates; None if the schema does not accept it."""
        schema = self.bundle.schema
        try:
            request = parse_request(row["request"], schema, max(1, len(row["item_ids"])))
        except RequestError:
            self.refused += 1
            return None
        start, heads = time.perf_counter(), list(self.bundle.manifest.heads)
        user = self._users.get([request.user_id])
        tensors = assemble(schema, request, row["at"], user, self._items.get(wanted_items(request, user))).tensors
        scores = dict(zip(heads, self._session.run(heads, tensors), strict=True))
        if self._correction is not None:
            scores[HEAD] = self._correction(scores[HEAD])
        self.seconds.append(time.perf_counter() - start)
        return scores
