"""The playground's page and what it loads: files that lie beside this one, sent so that nothing else can run in it."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http.paths import ASSETS, PAGE

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


def page_routes() -> list[Route]:
    """Of the page, and of each file that it loads."""
    files = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES]
    return [_route(PAGE if path.name == _INDEX else f"{ASSETS}{path.name}", path) for path in files]


def _route(url: str, path: Path) -> Route:
    content, kind = path.read_bytes(), _TYPES[path.suffix]

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(url, send, methods=["GET"])
