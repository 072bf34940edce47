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

from msd.contract.bundle import open_bundle
from msd.contract.rows import RowSide
from service.access import AccessMiddleware
from service.docs import add_docs
from service.errors import ErrorResponse
from service.events_route import PATH as EVENTS_PATH
from service.events_route import EventsRoute
from service.guard import GuardMiddleware, open_guard
from service.health import health_routes
from service.lineup.lineup import Arm, Lineup, Serving
from service.lineup.model import load_model
from service.live.choice import open_live_store
from service.live.live_rows import LiveRows
from service.metrics import Metrics
from service.readiness import Readiness, Starter
from service.request_log.sender import RequestLog
from service.run_queue import RunQueue
from service.score_route import PATH, ScoreRoute
from service.scorer import Scorer
from service.settings import Settings


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
    metrics = metrics or Metrics()
    model = load_model(bundle, settings, metrics, memory or {})
    serving = Serving(Lineup(1, (Arm("champion", model),)))
    metrics.bundle(bundle.bundle_id, model.version, model.store.name)
    metrics.runtime(model.engine)
    readiness = Readiness(metrics)
    guard = open_guard(settings, metrics)
    deadline_s = settings.deadline_ms / 1000
    queue = RunQueue(metrics, settings.max_queued_rows, deadline_s)
    live = open_live_store(settings, side_folder) if settings.live else None
    live_rows = LiveRows(live, metrics, settings.live_lag_seconds) if live else None
    scorer = Scorer(queue, metrics, deadline_s, live_rows)
    request_log = _request_log(settings, metrics, side_folder)
    starter = Starter(serving, queue, readiness, settings.max_candidates)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(starter.start())]
        if guard is not None:
            tasks.append(asyncio.create_task(guard.watch()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            queue.close()
            if request_log is not None:
                await request_log.close()
            await serving.close()
            if live:
                await live.close()

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
    if guard is not None:
        app.add_middleware(GuardMiddleware, guard=guard)
    app.add_middleware(AccessMiddleware, metrics=metrics, is_verbose=is_verbose)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    score = ScoreRoute(settings, serving, scorer, readiness, metrics, guard, request_log)
    app.scoring = AccessMiddleware(score, metrics, is_verbose)
    app.router.routes.append(Route(PATH, score, methods=["POST"], name="score"))
    if live:
        events = EventsRoute(settings, serving, live, readiness, metrics, request_log)
        app.router.routes.append(Route(EVENTS_PATH, events, methods=["POST"], name="events"))
    app.include_router(health_routes(serving, readiness, metrics, settings.max_candidates))
    add_docs(app, bundle, needs_keys=guard is not None, has_events=live is not None)
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


def _request_log(settings: Settings, metrics: Metrics, side_folder: Path | None) -> RequestLog | None:
    if settings.log_dir is None or side_folder is None:
        return None
    return RequestLog(side_folder, settings.log_sample, metrics)


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
