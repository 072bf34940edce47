"""How far the inputs and scores of logged requests are from what they were when the served bundle was exported.

Knows records and the reference in a manifest. Does not know files, nor who reads the figures.
"""

from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from msd.contract.assemble import Tensors, assemble
from msd.contract.bundle import MANIFEST, Manifest, read_manifest
from msd.contract.errors import MsdError
from msd.contract.log import RequestRecord, basis_of
from msd.contract.reference import Distribution, dense_inputs
from msd.contract.request import parse_request
from msd.contract.rows import RowCodec
from service.metrics import Metrics

# Of fewer requests a distribution is too rough to be compared: chance alone makes it differ.
LEAST_REQUESTS = 200
# The weight of what came before shrinks by this with each request, so that the latest 5,000 or so count.
_FADES = 1 - 1 / 5_000
_TELL_EVERY = 50


class Drift:
    """The drift of one service's champion; another bundle begins anew."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watched: _Watched | None = None
        self._manifest_sha256 = ""
        self._log = structlog.get_logger("msd.request_log")

    def add(self, record: RequestRecord, folder: Path) -> None:
        """Counts a request of the champion, whose bundle is in `folder`."""
        if record.manifest_sha256 != self._manifest_sha256:
            self._manifest_sha256 = record.manifest_sha256
            self._watched = self._watch(folder)
        watched = self._watched
        if watched is None:
            return
        try:
            watched.add(record)
        except MsdError as error:
            self._log.warning("drift_not_counted", request_id=record.request_id, reason=str(error))
            return
        if watched.requests >= LEAST_REQUESTS and watched.requests % _TELL_EVERY == 0:
            self._metrics.drift(self._manifest_sha256, watched.inputs(), watched.heads())

    def _watch(self, folder: Path) -> "_Watched | None":
        """None where the bundle has no reference, or is there no more."""
        try:
            manifest = read_manifest(folder / MANIFEST)
        except MsdError as error:
            self._log.warning("drift_not_watched", reason=str(error))
            return None
        if manifest.sha256 != self._manifest_sha256 or manifest.reference is None:
            return None
        return _Watched(manifest)


class _Watched:
    """One bundle's reference, and what was counted of late."""

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.reference is not None, "what is watched has a reference"
        self.requests = 0
        self._schema = manifest.feature_schema
        self._codecs = [RowCodec(self._schema, side, manifest.bundle_id) for side in ("user", "item")]
        known = dense_inputs(self._schema)
        self._inputs = {
            name: (known[name], _Counted(one)) for name, one in manifest.reference.inputs.items() if name in known
        }
        self._heads = {head: _Counted(one) for head, one in manifest.reference.scores.items()}

    def add(self, record: RequestRecord) -> None:
        """Counts one request. Raises MsdError where the record is not of this bundle."""
        tensors = self._tensors(record)
        self.requests += 1
        for column, counted in self._inputs.values():
            counted.add(column.values(tensors))
        for head, scores in zip(record.heads, record.scores, strict=True):
            if head in self._heads:
                self._heads[head].add(scores.astype(np.float64))

    def inputs(self) -> dict[str, float]:
        """Return the drift of each input."""
        return {name: counted.psi() for name, (_, counted) in self._inputs.items()}

    def heads(self) -> dict[str, float]:
        """Return the drift of each head's scores."""
        return {head: counted.psi() for head, counted in self._heads.items()}

    def _tensors(self, record: RequestRecord) -> Tensors:
        basis = basis_of(record, *self._codecs)
        request = parse_request(record.request, self._schema, max(1, len(record.item_ids)))
        return assemble(self._schema, request, basis.at, basis.user, basis.items).tensors


class _Counted:
    """Values of late by the bins of a reference."""

    def __init__(self, reference: Distribution) -> None:
        self._reference = reference
        self._counts = np.zeros(len(reference.shares))

    def add(self, values: NDArray[np.floating]) -> None:
        """Counts the values [n] of one request, which together weigh as one: those of one user are alike."""
        self._counts *= _FADES
        self._counts += self._reference.counts(values) / len(values)

    def psi(self) -> float:
        return self._reference.psi(self._counts)
