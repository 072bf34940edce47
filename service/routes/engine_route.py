"""POST /v1/score without Python: what the native front needs, to answer requests that the engine can score.

Everything else is for `score_route`, as are all requests while each is logged or traced. For the event loop.
"""

import math
from typing import Any

from service.deployment.readiness import Readiness
from service.http.keys import Guard, KeyEntry
from service.scoring.deployment import Serving
from service.scoring.pipeline import Pipeline


class EngineRoute:
    """Keeps the front's knowledge up to date."""

    def __init__(
        self, serving: Serving, pipeline: Pipeline, readiness: Readiness, guard: Guard | None, is_watched: bool
    ) -> None:
        """`is_watched`: each request is logged or traced."""
        self._serving, self._pipeline, self._readiness, self._guard = serving, pipeline, readiness, guard
        self._is_watched = is_watched
        self._front: Any = None
        self._told: tuple[object, ...] = ()
        self._keys: object = None

    def open(self, front: Any) -> None:  # noqa: ANN401 - the core has no types
        self._front, self._readiness.changed = front, self.look
        if self._guard is not None:
            self._guard.admitted = self._know
        self.look()

    def look(self) -> None:
        """Tell the front what has changed. Called several times a second too."""
        if self._guard is not None and self._keys is not self._guard.ring:
            self._front.forget_keys()
            self._keys = self._guard.ring
        deployment = self._serving.current
        serves = not (self._readiness.missing or self._is_watched)
        told = (deployment, *self._pipeline.corrections_of(deployment)) if serves else ()
        if told != self._told:
            self._front.serve(self._pipeline.plan(deployment) if serves else None)
            self._told = told
        self._front.forget_plans()

    def _know(self, key: bytes, entry: KeyEntry) -> None:
        if "score" in entry.scopes:
            self._front.know_key(key, math.inf if entry.not_after is None else entry.not_after.timestamp())
