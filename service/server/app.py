"""The service's ASGI app: routes, and the middleware around them."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from msd.contract.errors import plain_words
from msd.contract.request import InvalidRequest
from service.http.access import AccessMiddleware, error_response
from service.http.body import BodyMiddleware
from service.http.keys import GuardMiddleware
from service.routes.admin import admin_routes
from service.routes.docs import add_docs
from service.routes.events_route import PATH as EVENTS_PATH
from service.routes.events_route import EventsRoute
from service.routes.health import health_routes, metrics_route
from service.routes.items_route import PATH as ITEMS_PATH
from service.routes.items_route import items_routes
from service.routes.oip.infer import INFER_PATHS
from service.routes.oip.model_routes import oip_routes
from service.routes.openrtb import PATH as OPENRTB_PATH
from service.routes.score_route import PATH
from service.server.components import Components

_SWITCHES = {
    EVENTS_PATH: "it needs MSD_LIVE=on",
    ITEMS_PATH: "it needs MSD_CATALOGUE=on",
    "/v1/admin": "it needs MSD_KEYS_FILE, and moves to MSD_ADMIN_PORT",
    "/metrics": "it is on MSD_ADMIN_PORT",
    "/playground/score-without": "it needs MSD_PLAYGROUND_WITHOUT",
    "/playground": "it needs MSD_PLAYGROUND=true",
}
"""What adds or moves a route, by its prefix; the first that fits."""


def create_app(components: Components) -> FastAPI:
    """Return the main port's app."""
    app = FastAPI(
        title="msd-ctr",
        version=components.settings.build.version,
        description="Calibrated click probabilities for candidate ads.",
        lifespan=components.alive,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_layers(app, components)
    _add_routes(app, components)
    if components.settings.admin_port is None:
        _add_operations(app, components)
    add_docs(
        app,
        components.serving,
        needs_keys=components.guard is not None,
        has_events=components.live is not None,
    )
    return app


def admin_app(components: Components) -> FastAPI:
    """Return the admin port's app. It runs in a separate thread, so nothing here may wait for the service's loop."""
    app = FastAPI(
        title="msd-ctr",
        version=components.settings.build.version,
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_layers(app, components)
    app.include_router(health_routes(components.serving, components.readiness, components.settings.max_candidates))
    _add_operations(app, components)
    return app


def _add_operations(app: FastAPI, components: Components) -> None:
    app.include_router(metrics_route(components.metrics))
    if components.guard is not None:
        app.include_router(admin_routes(components.settings, components.serving))


def _add_layers(app: FastAPI, components: Components) -> None:
    settings, guard = components.settings, components.guard
    app.add_middleware(BodyMiddleware, settings=settings)
    if guard is not None:
        app.add_middleware(GuardMiddleware, guard=guard)
    app.add_middleware(AccessMiddleware, metrics=components.metrics)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_http_exception)


def _add_routes(app: FastAPI, components: Components) -> None:
    settings, serving, readiness = components.settings, components.serving, components.readiness
    for path in (PATH, OPENRTB_PATH, *INFER_PATHS):
        app.router.routes.append(Route(path, components.score, methods=["POST"]))
    app.include_router(oip_routes(serving, readiness, settings.build.version))
    if components.live:
        parts = readiness, components.metrics, components.request_log
        events = EventsRoute(settings, serving, components.live, *parts)
        app.router.routes.append(Route(EVENTS_PATH, events, methods=["POST"], name="events"))
    if components.catalogue:
        app.include_router(items_routes(serving, components.catalogue, components.live, readiness))
    if components.playground:
        app.router.routes.extend(components.playground.routes(components.score))
    app.include_router(health_routes(serving, readiness, settings.max_candidates))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    path: str = request.scope["path"]
    if isinstance(error, HTTPException) and (error.status_code, error.detail) == (404, "Not Found"):
        hint = next((f"; {hint}" for prefix, hint in _SWITCHES.items() if path.startswith(prefix)), "")
        error = HTTPException(404, f"no such route{hint}")
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        error = InvalidRequest(plain_words(first["msg"]), ".".join(map(str, first["loc"][1:])))
    answer = error_response(error, path)
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response
