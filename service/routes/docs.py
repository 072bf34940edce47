"""API documentation: OpenAPI for all routes, including raw ones; its page at /docs, with its assets; and the page at
`/`, with links to it, to the playground and to operators' routes.
"""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from msd.contract.bundle import GOLDENS
from msd.contract.golden import read_goldens
from msd.contract.openrtb import OpenrtbRequest
from msd.contract.request import ScoreRequest
from service.errors import ErrorReply
from service.http.exchange import FIELD, OIP
from service.http.keys import INDEX, PAGE
from service.limits import MAX_DEADLINE_MS
from service.routes.events_route import PATH as EVENTS_PATH
from service.routes.events_route import EventBatch, EventsReply
from service.routes.oip.docs import OPEN_PATHS, add_inference, oip_error
from service.routes.openrtb_route import PATH as OPENRTB_PATH
from service.routes.openrtb_route import OpenrtbReply
from service.routes.score_route import PATH
from service.scoring.deployment import Serving
from service.scoring.model import Model
from service.scoring.reply import ScoreReply

_ASSETS = "/docs/assets"
_REF = "#/components/schemas/{model}"
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_OPEN = ("/health/live", "/health/ready", "/metrics", *OPEN_PATHS)
_ERRORS = {
    400: ("malformed", "the body is not JSON: Expecting value: line 1 column 1 (char 0)", None),
    401: ("unauthorized", "send an API key: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`", None),
    403: ("forbidden", "the API key 'reports' lacks the scope 'score'", None),
    408: ("body_timeout", "the body did not end within 5 s; 0 bytes came", None),
    413: ("too_many_candidates", "10000 candidates; one request may have 2000: split it", "candidates.id"),
    415: ("unsupported_media_type", "the content type is 'text/plain'; it has to be 'application/json'", None),
    422: ("invalid", "should be greater than or equal to 1", "top_k"),
    429: ("overloaded", "20000 candidates are waiting; with these 200 there would be too many", None),
    500: ("model_error", "the model gave a score that is not a finite number for this request", None),
    503: ("not_ready", "not ready: model: warming up", None),
    504: ("deadline_exceeded", "deadline exceeded before a scoring thread was free", None),
}
_EVENT_ERRORS = {
    413: ("too_many_events", "2000 events; one batch may have 1000: split it", "events"),
    422: ("invalid", "should be 'impression' or 'click'", "events.3.type"),
    503: ("events_unavailable", "events were not on disk within 5 s", None),
}
_DESCRIPTIONS = {
    400: "Malformed or ambiguous JSON, or an invalid header.",
    401: "Keys are required, and the API key is missing, unknown or expired.",
    403: "The API key lacks the scope.",
    404: "The bundle does not map BidRequests to features.",
    408: "The body was not complete in time.",
    413: "Too many candidates or events, or too many bytes.",
    415: "The content type is not JSON.",
    422: "Valid JSON that does not match the schema; `field` says where.",
    429: "Overload: the queue is full, or scoring would be too late; retry after `Retry-After` seconds.",
    500: "Internal error.",
    503: "Not ready: starting, stopping, or a dependency is missing; retry after `Retry-After` seconds.",
    504: "Deadline exceeded, or too little time left for a model run.",
}
_DEADLINE = {
    "name": FIELD,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
    "description": "Deadline in milliseconds from the request's first byte; the service has a default. If time is"
    " short, the first candidates are scored and the others get the prior, as `degraded` says. The reply to a"
    " request with too long a deadline has this header too, with the maximum.",
}

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}"
    "li{margin:.6rem 0}"
)
_STYLE_DIGEST = b64encode(sha256(_STYLE.encode()).digest()).decode()
_INDEX_HEADERS = {
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


def add_docs(app: FastAPI, serving: Serving, *, needs_keys: bool, has_events: bool) -> None:
    """Add the page and its assets, and make `app.openapi()` include the raw routes and keys."""
    static = Path(fastapi_offline.__file__).parent / "static"
    app.openapi = _openapi_of(app, serving, needs_keys, has_events)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=str(app.openapi_url).lstrip("/"),
            title=app.title,
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js".lstrip("/"),
            swagger_css_url=f"{_ASSETS}/swagger-ui.css".lstrip("/"),
            swagger_favicon_url=f"{_ASSETS}/favicon.png".lstrip("/"),
        )

    app.mount(_ASSETS, StaticFiles(directory=static), name="docs-assets")


def _openapi_of(app: FastAPI, serving: Serving, needs_keys: bool, has_events: bool) -> Callable[[], dict[str, Any]]:
    generation = -1

    def openapi() -> dict[str, Any]:
        nonlocal generation
        deployment = serving.current
        if app.openapi_schema is None or generation != deployment.generation:
            generation = deployment.generation
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, definitions = models_json_schema(
                [
                    (ScoreRequest, "validation"),
                    (ScoreReply, "serialization"),
                    (OpenrtbRequest, "validation"),
                    (OpenrtbReply, "serialization"),
                    (EventBatch, "validation"),
                    (EventsReply, "serialization"),
                    (ErrorReply, "serialization"),
                ],
                ref_template=_REF,
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            document["paths"][PATH] = {"post": _operation(_example(deployment.champion))}
            document["paths"][OPENRTB_PATH] = {"post": _openrtb_operation()}
            add_inference(document, deployment, _DEADLINE, {status: _DESCRIPTIONS[status] for status in _ERRORS})
            if has_events:
                document["paths"][EVENTS_PATH] = {"post": _events_operation()}
            if needs_keys:
                _tell_of_keys(document)
            document["paths"] = dict(sorted(document["paths"].items(), key=lambda path: _place(path[0])))
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _place(path: str) -> int:
    """Return the sort key of a path: the most used first."""
    first = (PATH, OPENRTB_PATH, EVENTS_PATH, "/v1/model")
    return first.index(path) if path in first else len(first)


def _tell_of_keys(document: dict[str, Any]) -> None:
    """Document keys for every route that may need one."""
    document["components"]["securitySchemes"] = _SECURITY
    document["security"] = [{name: []} for name in _SECURITY]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in _OPEN:
                operation["security"] = []
                continue
            of = oip_error if path.startswith(OIP) else None
            operation["responses"] |= {
                str(status): of(_DESCRIPTIONS[status]) if of else _error(status) for status in (401, 403)
            }


def _operation(example: dict[str, Any] | None) -> dict[str, Any]:
    request: dict[str, Any] = {"schema": {"$ref": _REF.format(model="ScoreRequest")}}
    if example is not None:
        request["examples"] = {"golden": {"summary": "A request of the bundle's goldens", "value": example}}
    header = {
        "X-Request-Id": {"schema": {"type": "string"}, "description": "Request ID: the caller's, or a new one."},
        "Server-Timing": {
            "schema": {"type": "string"},
            "description": "parse, rows, queue, run and total, in milliseconds; and explain, where it was asked for.",
        },
    }
    reply = {"schema": {"$ref": _REF.format(model="ScoreReply")}}
    return {
        "summary": "Score candidates for one user in one context",
        "operationId": "score",
        "tags": ["scoring"],
        "parameters": [
            {
                "name": "X-Request-Id",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "Request ID for the reply and the log: up to 128 printable ASCII characters; others are"
                " replaced.",
            },
            _DEADLINE,
        ],
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {
            "200": {"description": "Scores.", "headers": header, "content": {"application/json": reply}},
            **{str(status): _error(status) for status in _ERRORS},
        },
    }


def _openrtb_operation() -> dict[str, Any]:
    reply = {"schema": {"$ref": _REF.format(model="OpenrtbReply")}}
    missing = ("no_openrtb_mapping", "the bundle a maps no BidRequests: declare [openrtb] in dataset.toml", None)
    return {
        "summary": "Score candidates for the impressions of an OpenRTB BidRequest",
        "description": "The bundle says which values of the BidRequest are features. Where its privacy signals do not"
        " let the user's identity be used, nothing about the user counts.",
        "operationId": "openrtb",
        "tags": ["scoring"],
        "parameters": [_DEADLINE],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="OpenrtbRequest")}}},
        },
        "responses": {
            "200": {"description": "Scores by impression.", "content": {"application/json": reply}},
            "404": _error(404, missing),
            **{str(status): _error(status) for status in _ERRORS},
        },
    }


def _events_operation() -> dict[str, Any]:
    click = {"event_id": "e1", "type": "click", "user_id": "u7", "item_id": "a1", "at": 1_764_066_000}
    request = {
        "schema": {"$ref": _REF.format(model="EventBatch")},
        "examples": {"click": {"summary": "A click, a minute after its impression", "value": {"events": [click]}}},
    }
    reply = {"schema": {"$ref": _REF.format(model="EventsReply")}}
    return {
        "summary": "Report up to 1,000 impressions and clicks",
        "description": "A batch is accepted or rejected as a whole, and answered once it is durable. Send a batch"
        " without an answer again.",
        "operationId": "events",
        "tags": ["events"],
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {
            "202": {"description": "The events are durable.", "content": {"application/json": reply}},
            **{str(status): _error(status) for status in (400, 401, 403, 408, 415, 500)},
            **{str(status): _error(status, error) for status, error in _EVENT_ERRORS.items()},
        },
    }


def _error(status: int, example: "tuple[str, str, str | None] | None" = None) -> dict[str, Any]:
    code, message, field = example or _ERRORS[status]
    content: dict[str, Any] = {
        "schema": {"$ref": _REF.format(model="ErrorReply")},
        "example": {"error": {"code": code, "message": message, "field": field}},
    }
    return {"description": _DESCRIPTIONS[status], "content": {"application/json": content}}


def _example(model: Model) -> dict[str, Any] | None:
    golden = next(iter(read_goldens(model.bundle.path(GOLDENS))), None)
    return golden.request if golden else None


def index_route(serving: Serving, version: str, *, has_playground: bool, has_metrics: bool) -> Route:
    """Return the page of links to the routes on this port."""
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
        return Response(page, media_type="text/html", headers=_INDEX_HEADERS)

    return Route(INDEX, index, methods=["GET"])
