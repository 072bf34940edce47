"""What the native front needs, to answer requests that the engine can score: of POST /v1/score, and of other forms.

Everything else is for the app's routes. For the event loop.
"""

import math
from typing import Any

from service.deployment.readiness import Readiness
from service.http.keys import Guard, KeyEntry
from service.scoring.deployment import Deployment, Serving
from service.scoring.pipeline import Pipeline


class EngineRoute:
    """Keeps the front's knowledge up to date."""

    def __init__(
        self,
        serving: Serving,
        pipeline: Pipeline,
        readiness: Readiness,
        guard: Guard | None,
    ) -> None:
        self._serving, self._pipeline, self._readiness, self._guard = serving, pipeline, readiness, guard
        self._front: Any = None
        self._told: Deployment | None = None

    def open(self, front: Any) -> None:  # noqa: ANN401 - the core has no types
        self._front, self._readiness.changed = front, self.look
        if self._guard is not None:
            self._guard.follow(self._know, front.forget_keys)
        self.look()

    def look(self) -> None:
        """Tell the front what has changed. Called several times a second too."""
        if self._guard is not None and self._guard.is_stale:
            self._front.forget_keys()
        deployment = None if self._readiness.missing else self._serving.current
        if deployment is not self._told:
            self._front.serve(deployment and self._pipeline.plan(deployment))
            self._told = deployment
        self._front.forget_plans()

    def _know(self, key: bytes, entry: KeyEntry) -> None:
        assert self._guard is not None, "it calls this"
        if "score" in entry.scopes:
            until = math.inf if entry.not_after is None else entry.not_after.timestamp()
            self._front.know_key(key, entry.name, until)
        # The keys may have changed meanwhile.
        if not self._guard.knows(key, entry):
            self._front.forget_keys()
