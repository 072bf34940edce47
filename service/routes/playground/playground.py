"""The playground: its page, its data, and the model that it compares with.

That model is a separate bundle, trained without the LLM's knowledge, which only the playground uses. It is scored like
all others: it waits in the same queue and may be refused for the same reasons.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.deployment.readiness import why_not_proved
from service.http.access import PLAYGROUND
from service.http.keys import ASSETS, PAGE
from service.routes.playground.data import PlaygroundData
from service.scoring.deployment import Arm, Deployment, Serving, UserSplit
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
    """The playground, if enabled; and the model that it compares with."""

    def __init__(self, settings: Settings, serving: Serving, metrics: Metrics) -> None:
        """Raises MsdError if the model to compare with is invalid."""
        self._model = _load_without(settings, metrics)
        self.compared: Deployment | None = None
        """The deployment of that model, once it is proved."""
        self.missing = "the model without the LLM's knowledge is warming up"
        """Why it is not; empty if it is."""
        self._max_candidates = settings.max_candidates
        self._data = PlaygroundData(serving, settings, self._model)

    def routes(self, score: ASGIApp) -> list[Route]:
        """`score` scores requests."""
        compared = [Route(f"{PLAYGROUND}score-without", score, methods=["POST"])] if self._model else []
        files = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES]
        pages = [_route(PAGE if path.name == _INDEX else f"{ASSETS}{path.name}", path) for path in files]
        return [*pages, *self._data.routes(), *compared]

    async def open(self) -> None:
        """Prove the model to compare with; requests get the reason if it fails."""
        if self._model is not None:
            self.missing = await why_not_proved([self._model], self._max_candidates, "without")
            if not self.missing:
                self.compared = Deployment(0, (Arm(_NAME, self._model),), UserSplit("", [_NAME], [1.0]))


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
