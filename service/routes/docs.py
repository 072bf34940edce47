"""API documentation: OpenAPI for all routes, including raw ones; and its page at /docs, with its assets."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from msd.contract.bundle import GOLDENS
from msd.contract.golden import read_goldens
from msd.contract.openrtb import OpenrtbRequest
from msd.contract.request import ScoreRequest
from service.errors import DESCRIPTIONS, ErrorReply
from service.http.access import OIP
from service.http.body import FIELD
from service.limits import MAX_DEADLINE_MS
from service.routes.events_route import PATH as EVENTS_PATH
from service.routes.events_route import EventBatch, EventsReply
from service.routes.items_route import ItemBatch
from service.routes.oip.infer import INFER_PATHS
from service.routes.oip.model_routes import MODEL, versions_of
from service.routes.oip.tensors import HEADER, InferReply, InferRequest, OipError
from service.routes.openrtb import PATH as OPENRTB_PATH
from service.routes.openrtb import OpenrtbReply
from service.routes.playground.data import example_of
from service.routes.score_route import PATH
from service.scoring.deployment import Deployment, Serving
from service.scoring.reply import ScoreReply

_ASSETS = "/docs/assets"
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_OPEN = ("/health/live", "/health/ready", "/metrics", f"{OIP}/health/live", f"{OIP}/health/ready")
_EVENT_STATUSES = (400, 401, 403, 408, 413, 415, 422, 500, 503)
_SCORE_STATUSES = (*_EVENT_STATUSES, 429, 504)
_BIDS = [0.40, 0.55, 1.20]
_CLICK = {"event_id": "e1", "type": "click", "user_id": "u7", "item_id": "a1", "at": 1_764_066_000}
_TENSORS = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u7"]},
        {"name": "candidates.id", "shape": [2], "datatype": "BYTES", "data": ["a1", "a2"]},
        {"name": "candidates.bid", "shape": [2], "datatype": "FP32", "data": [0.4, 1.2]},
    ]
}


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
            # The list of schemas opens when clicked.
            swagger_ui_parameters={"defaultModelsExpandDepth": 0},
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
            requests = (ScoreRequest, OpenrtbRequest, EventBatch, ItemBatch, InferRequest)
            replies = (ScoreReply, OpenrtbReply, EventsReply, ErrorReply, InferReply, OipError)
            _, definitions = models_json_schema(
                [*((model, "validation") for model in requests), *((model, "serialization") for model in replies)],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            document["paths"] |= {path: {"post": operation} for path, operation in _raw_operations(deployment).items()}
            if not has_events:
                del document["paths"][EVENTS_PATH]
            if needs_keys:
                _add_keys(document)
            first = [path for path in (PATH, OPENRTB_PATH, EVENTS_PATH, "/v1/model") if path in document["paths"]]
            document["paths"] = {path: document["paths"][path] for path in dict.fromkeys((*first, *document["paths"]))}
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _add_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = _SECURITY
    document["security"] = [{name: []} for name in _SECURITY]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in _OPEN:
                operation["security"] = []
            else:
                operation["responses"] |= _errors((401, 403), OipError if path.startswith(OIP) else ErrorReply)


def _raw_operations(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Return the descriptions of routes that FastAPI does not know, by path."""
    known = example_of(list(read_goldens(deployment.champion.bundle.path(GOLDENS))))
    ads = known.pop("ads")[: len(_BIDS)]
    value = {**known, "candidates": {"id": ads, "bid": _BIDS[: len(ads)]}, "top_k": len(ads)}
    examples = {"known": {"summary": "A user and ads that the bundle knows, with bids", "value": value}}
    click = {"click": {"summary": "A click, a minute after its impression", "value": {"events": [_CLICK]}}}
    text = {"type": "string"}
    request_id = _header("X-Request-Id", text, "Up to 128 printable ASCII characters; others are replaced.")
    deadline = _header(
        FIELD,
        {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
        "Deadline in milliseconds from the request's first byte; the service has a default. If time is short, the"
        " first candidates are scored and the others get the prior, as `degraded` says. The reply to a request with too"
        " long a deadline has this header too, with the maximum.",
    )
    scores = _json(ScoreReply, "Scores.") | {
        "headers": {
            "X-Request-Id": {"schema": text, "description": "Request ID: the caller's, or a new one."},
            "Server-Timing": {
                "schema": text,
                "description": "parse, rows, queue, run, total and, if requested, explain, in milliseconds.",
            },
        }
    }
    operations: dict[str, dict[str, Any]] = {
        PATH: {
            "summary": "Score candidates for one user in one context",
            "operationId": "score",
            "tags": ["scoring"],
            "parameters": [request_id, deadline],
            "requestBody": _body(ScoreRequest, examples),
            "responses": {"200": scores, **_errors(_SCORE_STATUSES)},
        },
        OPENRTB_PATH: {
            "summary": "Score candidates for the impressions of an OpenRTB BidRequest",
            "description": "The bundle says which values of the BidRequest are features. Where its privacy signals do"
            " not let the user's identity be used, nothing about the user counts.",
            "operationId": "openrtb",
            "tags": ["scoring"],
            "parameters": [deadline],
            "requestBody": _body(OpenrtbRequest),
            "responses": {"200": _json(OpenrtbReply, "Scores by impression."), **_errors((404, *_SCORE_STATUSES))},
        },
        EVENTS_PATH: {
            "summary": "Report up to 1,000 impressions and clicks",
            "description": "A batch is accepted or rejected as a whole, and answered once it is durable. Send a batch"
            " without an answer again.",
            "operationId": "events",
            "tags": ["events"],
            "requestBody": _body(EventBatch, click),
            "responses": {"202": _json(EventsReply, "The events are durable."), **_errors(_EVENT_STATUSES)},
        },
    }
    values = {"name": [MODEL], "version": list(versions_of(deployment))}
    for path in INFER_PATHS:
        names = [name for name in values if f"{{{name}}}" in path]
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values[name]}}
            for name in names
        ]
        operations[path] = {
            "summary": "Score candidates, as tensors",
            "description": "An input has the name of its place in the JSON of /v1/score; GET /v2/models/msd lists all"
            f" inputs. The header `{HEADER}` gives the length of the JSON if binary values follow it.",
            "operationId": "infer_version" if "version" in names else "infer",
            "tags": ["open inference protocol"],
            "parameters": [*in_path, deadline],
            "requestBody": _body(InferRequest, {"two": {"value": _TENSORS}}),
            "responses": {
                "200": _json(InferReply, "Scores."),
                "404": _json(OipError, "Unknown model or version."),
                **_errors([status for status in _SCORE_STATUSES if status != 422], OipError),
            },
        }
    return operations


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _json(model: type[BaseModel], description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(model: type[BaseModel], examples: Mapping[str, Any] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"required": True, "content": {"application/json": content | ({"examples": examples} if examples else {})}}


def _errors(statuses: Iterable[int], form: type[BaseModel] = ErrorReply) -> dict[str, Any]:
    return {str(status): _json(form, DESCRIPTIONS[status]) for status in statuses}
