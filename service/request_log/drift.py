"""How far the inputs and scores of logged requests are from what they were when the served bundle was exported.

Knows requests, what they were scored from, and the reference in a manifest. Does not know who reads the figures.
"""

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import assemble
from msd.contract.bundle import Manifest
from msd.contract.log import Basis
from msd.contract.reference import Distribution, Reference, dense_inputs
from msd.contract.request import CheckedRequest
from service.runtimes.runtime import Scores
from service.telemetry.metrics import Metrics

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

    def add(self, manifest: Manifest, request: CheckedRequest, basis: Basis, scores: Scores) -> None:
        """Counts a request that the champion, whose manifest this is, has scored from `basis`."""
        if manifest.sha256 != self._manifest_sha256:
            self._manifest_sha256 = manifest.sha256
            self._watched = None if manifest.reference is None else _Watched(manifest, manifest.reference)
        watched = self._watched
        if watched is None:
            return
        watched.add(request, basis, scores)
        if watched.requests >= LEAST_REQUESTS and watched.requests % _TELL_EVERY == 0:
            self._metrics.drift(self._manifest_sha256, watched.inputs(), watched.heads())


class _Watched:
    """One bundle's reference, and what was counted of late."""

    def __init__(self, manifest: Manifest, reference: Reference) -> None:
        self.requests = 0
        self._schema = manifest.feature_schema
        known = dense_inputs(self._schema)
        self._inputs = {name: (known[name], _Counted(one)) for name, one in reference.inputs.items() if name in known}
        self._heads = {head: _Counted(one) for head, one in reference.scores.items()}

    def add(self, request: CheckedRequest, basis: Basis, scores: Scores) -> None:
        """Counts one request."""
        tensors = assemble(self._schema, request, basis.at, basis.user, basis.items).tensors
        self.requests += 1
        for column, counted in self._inputs.values():
            counted.add(column.values(tensors))
        for head, counted in self._heads.items():
            if head in scores:
                counted.add(scores[head].astype(np.float64))

    def inputs(self) -> dict[str, float]:
        """Return the drift of each input."""
        return {name: counted.psi() for name, (_, counted) in self._inputs.items()}

    def heads(self) -> dict[str, float]:
        """Return the drift of each head's scores."""
        return {head: counted.psi() for head, counted in self._heads.items()}


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
