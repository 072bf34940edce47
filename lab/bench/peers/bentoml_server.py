"""The graph on BentoML, over JSON; runs in its own environment."""

import os

import bentoml

from lab.bench.peers.scorer import WORKERS, Scorer
from lab.bench.peers.wire import from_json


@bentoml.service(workers=int(os.environ[WORKERS]), logging={"access": {"enabled": False}})
class Api:
    """One worker."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    @bentoml.api  # type: ignore[untyped-decorator]
    def score(self, tensors: str) -> dict[str, list[float]]:
        """Return scores [N] of the tensors in a body."""
        return {"pctr": self._scorer(from_json(tensors)).tolist()}
