"""API documentation: OpenAPI for all routes, including raw ones; and its page at /docs, with its assets."""

from collections.abc import Callable, Mapping
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
from service.errors import ErrorReply
from service.http.exchange import FIELD, OIP
from service.limits import MAX_DEADLINE_MS
from service.routes.events_route import PATH as EVENTS_PATH
from service.routes.events_route import EventBatch, EventsReply
from service.routes.oip.infer_route import INFER_PATHS
from service.routes.oip.model_routes import MODEL, versions_of
from service.routes.oip.tensors import HEADER, InferReply, InferRequest, OipError
from service.routes.openrtb_route import PATH as OPENRTB_PATH
from service.routes.openrtb_route import OpenrtbReply
from service.routes.score_route import PATH
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model
from service.scoring.reply import ScoreReply

_Example = tuple[str, str, str | None]
"""Code, message and field of an error."""
_ASSETS = "/docs/assets"
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_OPEN = ("/health/live", "/health/ready", "/metrics", f"{OIP}/health/live", f"{OIP}/health/ready")
_ERRORS: Mapping[int, _Example] = {
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
_EVENT_ERRORS: Mapping[int, _Example] = {
    **{status: _ERRORS[status] for status in (400, 401, 403, 408, 415, 500)},
    413: ("too_many_events", "2000 events; one batch may have 1000: split it", "events"),
    422: ("invalid", "should be 'impression' or 'click'", "events.3.type"),
    503: ("events_unavailable", "events were not on disk within 5 s", None),
}
_OPENRTB_ERRORS: Mapping[int, _Example] = {
    404: ("no_openrtb_mapping", "the bundle a maps no BidRequests: declare [openrtb] in dataset.toml", None),
    **_ERRORS,
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
_CLICK = {"event_id": "e1", "type": "click", "user_id": "u7", "item_id": "a1", "at": 1_764_066_000}
_TENSORS = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u7"]},
        {"name": "candidates.id", "shape": [2], "datatype": "BYTES", "data": ["a1", "a2"]},
        {"name": "candidates.bid", "shape": [2], "datatype": "FP32", "data": [0.4, 1.2]},
    ]
}
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Request ID for the reply and the log: up to 128 printable ASCII characters; others are replaced.",
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
            requests = (ScoreRequest, OpenrtbRequest, EventBatch, InferRequest)
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
            document["paths"] = dict(sorted(document["paths"].items(), key=lambda path: _place(path[0])))
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _place(path: str) -> int:
    """Return the sort key of a path: the most used first."""
    first = (PATH, OPENRTB_PATH, EVENTS_PATH, "/v1/model")
    return first.index(path) if path in first else len(first)


def _add_keys(document: dict[str, Any]) -> None:
    """Document keys for every route that may need one."""
    document["components"]["securitySchemes"] = _SECURITY
    document["security"] = [{name: []} for name in _SECURITY]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in _OPEN:
                operation["security"] = []
            else:
                refused = {status: _ERRORS[status] for status in (401, 403)}
                operation["responses"] |= _errors(refused, is_oip=path.startswith(OIP))


def _raw_operations(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Return the descriptions of routes that FastAPI does not know, by path."""
    golden = _example(deployment.champion)
    examples = {"golden": {"summary": "A request of the bundle's goldens", "value": golden}} if golden else None
    click = {"click": {"summary": "A click, a minute after its impression", "value": {"events": [_CLICK]}}}
    scores = _json(ScoreReply, "Scores.") | {
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}, "description": "Request ID: the caller's, or a new one."},
            "Server-Timing": {
                "schema": {"type": "string"},
                "description": "parse, rows, queue, run and total, in milliseconds; and explain, where it was asked"
                " for.",
            },
        }
    }
    operations: dict[str, dict[str, Any]] = {
        PATH: {
            "summary": "Score candidates for one user in one context",
            "operationId": "score",
            "tags": ["scoring"],
            "parameters": [_REQUEST_ID, _DEADLINE],
            "requestBody": _body(ScoreRequest, examples),
            "responses": {"200": scores, **_errors(_ERRORS)},
        },
        OPENRTB_PATH: {
            "summary": "Score candidates for the impressions of an OpenRTB BidRequest",
            "description": "The bundle says which values of the BidRequest are features. Where its privacy signals do"
            " not let the user's identity be used, nothing about the user counts.",
            "operationId": "openrtb",
            "tags": ["scoring"],
            "parameters": [_DEADLINE],
            "requestBody": _body(OpenrtbRequest),
            "responses": {"200": _json(OpenrtbReply, "Scores by impression."), **_errors(_OPENRTB_ERRORS)},
        },
        EVENTS_PATH: {
            "summary": "Report up to 1,000 impressions and clicks",
            "description": "A batch is accepted or rejected as a whole, and answered once it is durable. Send a batch"
            " without an answer again.",
            "operationId": "events",
            "tags": ["events"],
            "requestBody": _body(EventBatch, click),
            "responses": {"202": _json(EventsReply, "The events are durable."), **_errors(_EVENT_ERRORS)},
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
            "parameters": [*in_path, _DEADLINE],
            "requestBody": _body(InferRequest, {"two": {"value": _TENSORS}}),
            "responses": {
                "200": _json(InferReply, "Scores."),
                "404": _json(OipError, "Unknown model or version."),
                **_errors({status: error for status, error in _ERRORS.items() if status != 422}, is_oip=True),
            },
        }
    return operations


def _json(model: type[BaseModel], description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(model: type[BaseModel], examples: Mapping[str, Any] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"required": True, "content": {"application/json": content | ({"examples": examples} if examples else {})}}


def _errors(errors: Mapping[int, _Example], *, is_oip: bool = False) -> dict[str, Any]:
    """Return the error replies by status, in the form of either API."""
    if is_oip:
        return {str(status): _json(OipError, _DESCRIPTIONS[status]) for status in errors}
    replies = {}
    for status, (code, message, field) in errors.items():
        reply = replies[str(status)] = _json(ErrorReply, _DESCRIPTIONS[status])
        example = {"error": {"code": code, "message": message, "field": field}}
        reply["content"]["application/json"]["example"] = example
    return replies


def _example(model: Model) -> dict[str, Any] | None:
    golden = next(iter(read_goldens(model.bundle.path(GOLDENS))), None)
    return golden.request if golden else None
