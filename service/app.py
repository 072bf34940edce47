"""Where the service's objects meet: `create_app` makes them, its lifespan starts and stops them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from msd.contract.bundle import Bundle, open_bundle
from msd.contract.rows import RowSide
from service.access import AccessMiddleware
from service.docs import add_docs
from service.errors import ErrorResponse
from service.health import health_routes
from service.metrics import Metrics
from service.readiness import Readiness, Starter
from service.run_queue import RunQueue
from service.runtimes.choice import open_runtime
from service.score_route import PATH, ScoreRoute
from service.scorer import Scorer
from service.settings import Settings
from service.stores.bundle_file import BundleFileStore
from service.stores.store import RowStore


def create_app(
    settings: Settings,
    metrics: Metrics | None = None,
    memory: Mapping[RowSide, int] | None = None,
    side_folder: Path | None = None,
) -> FastAPI:
    """The service over one bundle. Raises MsdError when bundle, runtime or rows file are not as they should be.

    `metrics` are a worker's, `memory` that of the rows; without, the app has its own. `side_folder` has the sockets of
    the side processes; without, there are none. `state.readiness` is the Readiness, for the server that drains it.
    """
    bundle = open_bundle(settings.bundle, rows=settings.store == "file")
    runtime = open_runtime(bundle, settings)
    metrics = metrics or Metrics()
    store = _open_store(settings, bundle, metrics, memory)
    metrics.bundle(bundle.bundle_id, bundle.manifest.model_version, store.name)
    metrics.runtime(runtime.engine)
    readiness = Readiness(metrics)
    deadline_s = settings.deadline_ms / 1000
    queue = RunQueue(runtime, metrics, settings.max_queued_rows, deadline_s)
    scorer = Scorer(bundle, store, queue, metrics, deadline_s)
    starter = Starter(bundle, runtime, queue, store, readiness)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(starter.start(settings.max_candidates))
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            queue.close()
            await store.close()

    app = _App(
        title="msd-ctr",
        version=_version(),
        description="Calibrated click probabilities for candidate ads.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.readiness = readiness
    is_verbose = settings.log_level == "debug"
    app.add_middleware(AccessMiddleware, metrics=metrics, is_verbose=is_verbose)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    score = ScoreRoute(settings, bundle, scorer, readiness, metrics)
    app.scoring = AccessMiddleware(score, metrics, is_verbose)
    app.router.routes.append(Route(PATH, score, methods=["POST"], name="score"))
    app.include_router(health_routes(bundle, runtime, store, readiness, metrics, settings.max_candidates))
    add_docs(app, bundle)
    return app


class _App(FastAPI):
    """Scoring requests go straight to their route: FastAPI's layers would cost much and do nothing for them."""

    scoring: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await self.scoring(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _open_store(settings: Settings, bundle: Bundle, metrics: Metrics, memory: Mapping[RowSide, int] | None) -> RowStore:
    if settings.store == "file":
        return BundleFileStore(bundle, metrics, memory)
    from service.stores.redis import RedisStore

    assert settings.redis_url is not None, "settings with a Redis store have its address"
    url, timeout_s = settings.redis_url.get_secret_value(), settings.store_timeout_ms / 1000
    return RedisStore(bundle, url, timeout_s, settings.cache_mb * 2**20, metrics)


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    answer = ErrorResponse(error)
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def _version() -> str:
    try:
        return version("msd-ctr")
    except PackageNotFoundError:  # a checkout that is run without being installed
        return "0"
