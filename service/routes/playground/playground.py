"""The playground as parts of the app: its page, what it asks for, and the model that it compares with.

That model is a bundle of its own, trained without the LLM's knowledge, and nobody else asks it. It is scored like all
others: it waits in the same queue and may be refused for the same reasons.
"""

from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.deployment.readiness import why_not_proved
from service.errors import NotReady
from service.http.keys import ASSETS, PAGE, PLAYGROUND
from service.routes.playground.data import PlaygroundData
from service.scoring.lineup import Arm, Assignment, Lineup, Serving
from service.scoring.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust

_FOLDER = Path(__file__).parent / "static"
_INDEX = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Scripts, styles and requests of this origin alone, nothing inline, and no text that becomes markup.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_NAME = "without"


class Alone:
    """A line-up of one model, which never changes."""

    def __init__(self, model: Model) -> None:
        self.current = Lineup(0, (Arm(_NAME, model),), Assignment("", [_NAME], [1.0]))


class Playground:
    """Made where the settings ask for it. Raises MsdError when the model to compare with is not as it should be."""

    def __init__(
        self, settings: Settings, serving: Serving, metrics: Metrics, scored_by: Callable[[Alone], ASGIApp]
    ) -> None:
        """`scored_by` makes the scoring route over a line-up of its own."""
        model = _load_without(settings, metrics)
        self._without = ProvedRoute(scored_by(Alone(model)), model, settings.max_candidates) if model else None
        self._data = PlaygroundData(serving, settings, model)

    def routes(self) -> list[Route]:
        """All of them."""
        compared = [Route(f"{PLAYGROUND}score-without", self._without, methods=["POST"])] if self._without else []
        return [*_page_routes(), *self._data.routes(), *compared]

    async def open(self) -> None:
        """Proves the model to compare with."""
        if self._without is not None:
            await self._without.prove()


class ProvedRoute:
    """A scoring route over one model, which answers once that has been proved."""

    def __init__(self, route: ASGIApp, model: Model, max_candidates: int) -> None:
        self._route, self._model, self._max_candidates = route, model, max_candidates
        self._missing = "the model without the LLM's knowledge is warming up"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises NotReady too."""
        if self._missing:
            raise NotReady(f"not ready: {self._missing}")
        await self._route(scope, receive, send)

    async def prove(self) -> None:
        """Proves the model; what is wrong with it is said to whoever asks."""
        self._missing = await why_not_proved([self._model], self._max_candidates, "without")


def _load_without(settings: Settings, metrics: Metrics) -> Model | None:
    """None where the settings name none. Raises MsdError when it is not as it should be."""
    folder = settings.playground_without
    if folder is None:
        return None
    bundle = Trust(settings.trusted_keys).open(folder)
    # Its rows are its own files', wherever those of the bundle that is served are.
    own = settings.model_copy(update={"bundle": folder, "store": "file", "merge": "off"})
    return load_model(bundle, own, metrics)


def _page_routes() -> list[Route]:
    """Of the page, and of each file that it loads."""
    files = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES]
    return [_route(PAGE if path.name == _INDEX else f"{ASSETS}{path.name}", path) for path in files]


def _route(url: str, path: Path) -> Route:
    content, kind = path.read_bytes(), _TYPES[path.suffix]

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(url, send, methods=["GET"])
