"""The page at `/`: where the playground, the API's documentation and what operators ask for are."""

from base64 import b64encode
from hashlib import sha256
from html import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http.keys import INDEX, PAGE
from service.models.lineup import Serving

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}"
    "li{margin:.6rem 0}"
)
_STYLE_DIGEST = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; frame-ancestors 'none';"
    " base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_LINKS = (
    (PAGE, "Playground", "rank ads for a user, and see why"),
    ("/docs", "API", "every route, with examples to try"),
    ("/v1/model", "Model", "the bundle that is served"),
    ("/metrics", "Metrics", "in Prometheus's text format"),
    ("/health/ready", "Ready?", "whether requests should be sent here"),
)


def index_route(serving: Serving, version: str, *, has_playground: bool, has_metrics: bool) -> Route:
    """Links to what this service answers on this port."""
    absent = {path for path, there_is in ((PAGE, has_playground), ("/metrics", has_metrics)) if not there_is}
    there = [link for link in _LINKS if link[0] not in absent]
    rows = "".join(f'<li><a href="{path.lstrip("/")}">{name}</a> – {what}</li>' for path, name, what in there)

    async def index(_: Request) -> Response:
        model = serving.current.champion.version
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>msd-ctr</title>'
            f"<style>{_STYLE}</style>"
            f"<h1>msd-ctr {escape(version)}</h1><p>Serving {escape(model)}.</p><ul>{rows}</ul></html>"
        )
        return Response(page, media_type="text/html", headers=_HEADERS)

    return Route(INDEX, index, methods=["GET"])
