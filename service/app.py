"""Where the service's objects meet: `create_app` makes them, its lifespan starts and stops them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import AccessMiddleware
from service.admin import admin_routes
from service.admission import Admission
from service.body import BodyMiddleware
from service.cold.cold_ads import open_cold_ads
from service.deadline import Deadlines
from service.docs import add_docs
from service.door import Door
from service.events_route import PATH as EVENTS_PATH
from service.events_route import EventsRoute
from service.exchange import Exchange
from service.explain.explainer import Explainer
from service.guard import Guard, GuardMiddleware, open_guard
from service.health import health_routes
from service.lineup.lineup import Lineup, Serving
from service.lineup.loader import Loader, lineup_of, load_planned
from service.lineup.plan import Plan, PlannedArm, PlannedModel
from service.lineup.shadowing import Shadowing
from service.lineup.source import CHAMPION
from service.live.choice import open_live_store
from service.live.live_rows import LiveRows
from service.metrics import Metrics
from service.oip.docs import INFER_PATHS
from service.oip.errors import error_response
from service.oip.infer_route import InferRoute
from service.oip.model_routes import oip_routes
from service.playground.playground import Playground
from service.playground.without import Alone
from service.readiness import Readiness, Starter
from service.request_log.sender import RequestLog
from service.run_queue import RunQueue
from service.score_route import PATH, ScoreRoute
from service.scorer import Scorer
from service.scoring import Scoring
from service.settings import Settings
from service.siblings import Siblings
from service.trust import Trust


def create_app(
    settings: Settings,
    metrics: Metrics | None = None,
    plan: Plan | None = None,
    side_folder: Path | None = None,
    exchange: Exchange | None = None,
) -> FastAPI:
    """The service over a line-up. Raises MsdError when a bundle, runtime or rows file is not as it should be.

    `metrics` are a worker's, `plan` is what its supervisor has it serve; without, the app has its own, over the bundle
    of the settings. `side_folder` has the sockets of the side processes; without, there are none. `exchange` is for
    workers that share their requests. `state.readiness`, `.serving` and `.loader` are for the server that drains it and
    hears of other line-ups.
    """
    plan = plan or _own_plan(settings)
    metrics = metrics or Metrics()
    readiness = Readiness(metrics)
    starter = Starter(readiness, settings.max_candidates)

    def tell(lineup: Lineup) -> None:
        metrics.serves(
            [(model.bundle.bundle_id, model.version, model.store.name) for model in lineup.models.values()],
            [model.engine for model in lineup.models.values()],
            [((str(arm.slot), arm.name, arm.model.bundle.bundle_id), arm.share) for arm in lineup.arms],
        )
        metrics.reference(lineup.champion.bundle.manifest)

    def turn(lineup: Lineup) -> None:
        tell(lineup)
        starter.end()
        readiness.proved()

    first = lineup_of(plan, {key: load_planned(one, settings, metrics) for key, one in plan.models.items()})
    tell(first)
    serving = Serving(first, metrics, turn)
    loader = Loader(serving, settings, metrics)
    guard = open_guard(settings, metrics)
    admission = Admission(metrics, settings.max_queued_rows)
    queue = RunQueue(metrics, admission)
    live = open_live_store(settings, side_folder) if settings.live else None
    live_rows = LiveRows(live, metrics, settings.live_lag_seconds) if live else None
    cold_ads = open_cold_ads(settings, side_folder, metrics)
    scorer = Scorer(queue, admission, metrics, live_rows, cold_ads)
    shadowing = Shadowing(scorer, queue, metrics, settings.max_candidates)
    request_log = _request_log(settings, metrics, side_folder)
    explainer = Explainer(queue, admission)
    scoring = Scoring(serving, scorer, admission, metrics, settings.max_candidates, shadowing, request_log, explainer)
    # Where rows are waited for, the next request's may come while the model runs.
    ahead = int(settings.store == "redis")
    siblings = Siblings(exchange, metrics, serving, queue, scoring, ahead) if exchange else None

    def compared_by(alone: Alone) -> ASGIApp:
        own = Scoring(alone, scorer, admission, metrics, settings.max_candidates, shadowing, None, explainer)
        return ScoreRoute(settings, own, admission, queue, readiness, guard, None)

    playground = Playground(settings, serving, metrics, compared_by) if settings.playground else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loader.watch(serving.current)
        starter.begin(list(serving.current.models.values()))
        tasks = _begun(guard, request_log, siblings, playground)
        try:
            yield
        finally:
            starter.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _close(siblings)
            queue.close()
            await _close(shadowing, request_log, cold_ads, serving, live)

    app = _App(
        title="msd-ctr",
        version=_version(),
        description="Calibrated click probabilities for candidate ads.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.readiness, app.state.serving, app.state.loader = readiness, serving, loader
    is_verbose = settings.log_level == "debug"
    # Where keys are asked for, or each request has its line in the log, all go the usual way.
    is_usual = guard is not None or is_verbose
    app.state.door = None if is_usual else Door(admission, Deadlines(settings), readiness, metrics, PATH)
    app.add_middleware(BodyMiddleware, limit=settings.max_body_bytes, timeout_s=settings.body_timeout_ms / 1000)
    if guard is not None:
        app.add_middleware(GuardMiddleware, guard=guard)
    app.add_middleware(AccessMiddleware, metrics=metrics, is_verbose=is_verbose)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    score = ScoreRoute(settings, scoring, admission, queue, readiness, guard, siblings)
    app.scoring = AccessMiddleware(score, metrics, is_verbose)
    app.router.routes.append(Route(PATH, score, methods=["POST"], name="score"))
    infer = InferRoute(settings, serving, scoring, admission, queue, readiness, siblings)
    app.router.routes += [Route(path, infer, methods=["POST"], name="infer") for path in INFER_PATHS]
    app.include_router(oip_routes(serving, readiness, _version()))
    if live:
        events = EventsRoute(settings, serving, live, readiness, metrics, request_log)
        app.router.routes.append(Route(EVENTS_PATH, events, methods=["POST"], name="events"))
    if playground:
        app.router.routes.extend(playground.routes())
    app.include_router(health_routes(serving, readiness, metrics, settings.max_candidates))
    if guard is not None:
        app.include_router(admin_routes(settings, serving))
    add_docs(app, serving, settings.max_deadline_ms, needs_keys=guard is not None, has_events=live is not None)
    return app


def _own_plan(settings: Settings) -> Plan:
    bundle = Trust(settings.trusted_keys).open(settings.bundle, rows=settings.store == "file")
    model = PlannedModel(identity=bundle.manifest.sha256, folder=bundle.folder, origin=bundle.folder)
    return Plan(generation=0, arms=(PlannedArm(name=CHAMPION, model=model),))


class _App(FastAPI):
    """Scoring requests go straight to their route: FastAPI's layers would cost much and do nothing for them."""

    scoring: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await self.scoring(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _begun(
    guard: Guard | None, request_log: RequestLog | None, siblings: Siblings | None, playground: Playground | None
) -> list[asyncio.Task[None]]:
    """What goes on beside requests."""
    tasks = []
    if siblings is not None:
        siblings.open()
    if guard is not None:
        tasks.append(asyncio.create_task(guard.watch()))
    if request_log is not None:
        tasks.append(asyncio.create_task(request_log.connect()))
    if playground is not None:
        tasks.append(asyncio.create_task(playground.open()))
    return tasks


def _request_log(settings: Settings, metrics: Metrics, side_folder: Path | None) -> RequestLog | None:
    if settings.log_dir is None or side_folder is None:
        return None
    return RequestLog(side_folder, settings.log_sample, metrics)


class _Closes(Protocol):
    async def close(self) -> None: ...


async def _close(*parts: _Closes | None) -> None:
    """One after the other, as far as there are such parts."""
    for part in parts:
        if part is not None:
            await part.close()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    answer = error_response(error, request.scope["path"])
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def _version() -> str:
    try:
        return version("msd-ctr")
    except PackageNotFoundError:  # a checkout that is run without being installed
        return "0"
