"""The playground as parts of the app: its page, what it asks for, and the model that it compares with."""

from collections.abc import Callable

from starlette.routing import Route
from starlette.types import ASGIApp

from service.http.paths import WITHOUT
from service.models.lineup import Serving
from service.routes.playground.data import PlaygroundData
from service.routes.playground.page import page_routes
from service.routes.playground.without import Alone, ProvedRoute, load_without
from service.settings import Settings
from service.telemetry.metrics import Metrics


class Playground:
    """Made where the settings ask for it. Raises MsdError when the model to compare with is not as it should be."""

    def __init__(
        self, settings: Settings, serving: Serving, metrics: Metrics, scored_by: Callable[[Alone], ASGIApp]
    ) -> None:
        """`scored_by` makes the scoring route over a line-up of its own."""
        model = load_without(settings, metrics)
        self._without = ProvedRoute(scored_by(Alone(model)), model, settings.max_candidates) if model else None
        self._data = PlaygroundData(serving, settings, model)

    def routes(self) -> list[Route]:
        """All of them."""
        compared = [Route(WITHOUT, self._without, methods=["POST"])] if self._without else []
        return [*page_routes(), *self._data.routes(), *compared]

    async def open(self) -> None:
        """Proves the model to compare with."""
        if self._without is not None:
            await self._without.prove()
