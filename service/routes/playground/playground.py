"""The playground: its page, its data, and the model that it compares with.

That model is a separate bundle, trained without the LLM's knowledge, which only the playground uses. It is scored like
all others: it waits in the same queue and may be refused for the same reasons.
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
from service.scoring.deployment import Arm, Assignment, Deployment, Serving
from service.scoring.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust

_FOLDER = Path(__file__).parent / "static"
_INDEX = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Only scripts, styles and requests of this origin, nothing inline, and no text that becomes markup.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_NAME = "without"


class Playground:
    """The playground, if enabled; also the scoring route of the model to compare with."""

    def __init__(
        self, settings: Settings, serving: Serving, metrics: Metrics, scored_by: Callable[[Serving], ASGIApp]
    ) -> None:
        """`scored_by` makes the scoring route over a deployment. Raises MsdError if the model to compare with is
        invalid."""
        self._model = _load_without(settings, metrics)
        self._route: ASGIApp | None = None
        if self._model is not None:
            alone = Deployment(0, (Arm(_NAME, self._model),), Assignment("", [_NAME], [1.0]))
            self._route = scored_by(Serving(alone, lambda _: None))
        self._missing = "the model without the LLM's knowledge is warming up"
        self._max_candidates = settings.max_candidates
        self._data = PlaygroundData(serving, settings, self._model)

    def routes(self) -> list[Route]:
        compared = [Route(f"{PLAYGROUND}score-without", self, methods=["POST"])] if self._route else []
        files = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES]
        pages = [_route(PAGE if path.name == _INDEX else f"{ASSETS}{path.name}", path) for path in files]
        return [*pages, *self._data.routes(), *compared]

    async def open(self) -> None:
        """Prove the model to compare with; requests get the reason if it fails."""
        if self._model is not None:
            self._missing = await why_not_proved([self._model], self._max_candidates, "without")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Score one request by the model to compare with. Raises NotReady too."""
        assert self._route is not None, "there is a route if there is a model"
        if self._missing:
            raise NotReady(f"not ready: {self._missing}")
        await self._route(scope, receive, send)


def _load_without(settings: Settings, metrics: Metrics) -> Model | None:
    """Return the model to compare with, None if the settings name none. Raises MsdError if it is invalid."""
    folder = settings.playground_without
    if folder is None:
        return None
    bundle = Trust(settings.trusted_keys).open(folder)
    # Its rows are always its own files', even if the served bundle's are in Redis.
    own = settings.model_copy(update={"bundle": folder, "store": "file"})
    return load_model(bundle, own, metrics)


def _route(url: str, path: Path) -> Route:
    content, kind = path.read_bytes(), _TYPES[path.suffix]

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(url, send, methods=["GET"])
