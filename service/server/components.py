"""The service's objects: `Components` makes them, and starts and stops background work. Knows no HTTP routes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import native
from service import limits
from service.catalogue.catalogue import Catalogue
from service.catalogue.item import CatalogueError, ItemStore
from service.cold.cold_ads import open_cold_ads
from service.deployment.pinned_bundle import DeploymentPlan
from service.deployment.readiness import Readiness, make_ready
from service.deployment.shadowing import Shadowing
from service.http.keys import open_guard
from service.live.overlay import LiveRows
from service.live.store import LiveError, LiveStore
from service.request_log.request_log import open_request_log
from service.routes.explainer import ExplainBudget, Explainer
from service.routes.forms import Forms
from service.routes.playground.playground import Playground
from service.routes.score_route import ScoreRoute
from service.scoring.answer import Follower
from service.scoring.deployment import Deployment, Serving
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames
from service.scoring.model import Model, open_corrections
from service.scoring.pipeline import Pipeline
from service.server.watchdog import Liveness, grace_of
from service.settings import Settings
from service.telemetry.metrics import Metrics

# Kept for what follows the request log's end, of the time after the first signal.
_LAST_STEPS_S = 2.0


class Components:
    """The parts of one app. Raises MsdError if a bundle, runtime or rows file is invalid."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        plan: DeploymentPlan,
    ) -> None:
        """`settings` have the number of workers, because a runtime is opened for that many concurrent runs."""
        threads = settings.workers or 1
        self.settings, self.metrics = settings, metrics
        metrics.scoring_threads.set(threads)
        metrics.connections_limit.set(settings.max_connections)
        metrics.runs(settings.build, native.INSTRUCTIONS)
        models = {key: pinned.load(settings, metrics) for key, pinned in plan.models.items()}
        first = plan.deployment(models, generation=1)
        self._set_served(first)
        self.serving = Serving(first, self._turn)
        self.guard = open_guard(settings, metrics)
        most, patience_s = settings.max_candidates, settings.deadline_ms / 1000
        max_rows = max(limits.MAX_QUEUED_ROWS, most)
        self.engine = ScoringEngine(metrics, max_rows, threads, most, patience_s)
        self.liveness = Liveness(limits.HANG_S, self.engine.heartbeat, metrics)
        self.readiness = Readiness(metrics, self.liveness.hangs)
        self.ends_at: float | None = None
        """When the process is ended at the latest, on the monotonic clock; set by the first signal."""
        self._starting: asyncio.Task[None] | None = None
        self.live = open_live_store(settings, metrics) if settings.live else None
        self.catalogue: Catalogue | None = None
        live_rows = LiveRows(self.live, metrics, settings.live_lag_seconds) if self.live else None
        self._cold_ads = open_cold_ads(settings, [model.bundle for model in first.models.values()], metrics)
        self._corrections = corrections = open_corrections(settings.corrections, metrics)
        if settings.catalogue:
            self.catalogue = Catalogue(open_items(settings), self._cold_ads, metrics)
            metrics.catalogue_limit.set(settings.catalogue_items)
        frames = Frames(metrics, most, live_rows, self._cold_ads)
        self._explainer = Explainer(self.engine, ExplainBudget(settings.explain_share * threads))
        self._shadowing = Shadowing(frames, self.engine, metrics)
        self.request_log = open_request_log(settings, metrics)
        followers: list[Follower] = [self.request_log] if self.request_log else []
        pipeline = Pipeline(frames, corrections, followers, self._shadowing, Forms(metrics, most).translate)
        self.playground = Playground(settings, self.serving, metrics) if settings.playground else None
        parts = pipeline, self._explainer, self.readiness, self.guard, self.playground
        self.score = ScoreRoute(settings, self.serving, *parts, metrics)

    @asynccontextmanager
    async def alive(self, _: object) -> AsyncIterator[None]:
        """Do the background work; release everything at the end."""
        tasks = self._background_tasks()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.engine.close()
            self._explainer.close()
            await self._shadowing.close()
            if self.request_log is not None:
                now = time.monotonic()
                left_s = grace_of(self.settings) if self.ends_at is None else self.ends_at - now
                await self.request_log.close(max(0.0, left_s - _LAST_STEPS_S), self.liveness.beat)
            for part in (self._cold_ads, self.serving, self.live, self.catalogue):
                if part is not None:
                    await part.close()

    def _background_tasks(self) -> list[asyncio.Task[None]]:
        models = list(self.serving.current.models.values())
        if self.catalogue is not None:
            self.readiness.missing["catalogue"] = "its rows are made"
        self._starting = asyncio.create_task(self._make_ready(models))
        if self._cold_ads is not None:
            self._cold_ads.open([model.bundle for model in models], self.readiness.loading)
        tasks = [self._starting]
        if self.catalogue is not None:
            tasks += [asyncio.create_task(work) for work in (self.catalogue.follow(), self.catalogue.encode())]
        if self.guard is not None:
            tasks.append(asyncio.create_task(self.guard.keys.watch()))
        if self._corrections is not None:
            tasks.append(asyncio.create_task(self._corrections.watch()))
        if self.playground is not None:
            tasks.append(asyncio.create_task(self.playground.open()))
        return tasks

    async def _make_ready(self, models: Sequence[Model]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(make_ready(self.readiness, models, self.settings.max_candidates))
            if self.catalogue is not None:
                group.create_task(self._prepare(self.catalogue, models))

    async def _prepare(self, catalogue: Catalogue, models: Sequence[Model]) -> None:
        """Make the rows of the first models. A store that fails is asked again."""
        for model in models:
            while (reason := await catalogue.try_prepare(model)) is not None:
                self.readiness.missing["catalogue"] = reason
        self.readiness.arrived("catalogue")

    def _turn(self, deployment: Deployment) -> None:
        self._set_served(deployment)
        if self._starting is not None:
            self._starting.cancel()
        # The deployment is proved, and its store was reached.
        self.readiness.arrived(*self.readiness.missing)

    def _set_served(self, deployment: Deployment) -> None:
        self.metrics.serves(
            [(model.bundle.bundle_id, model.version, model.store.name) for model in deployment.models.values()],
            [model.engine for model in deployment.models.values()],
            [((str(arm.slot), arm.name, arm.model.bundle.bundle_id), arm.share) for arm in deployment.arms],
        )
        self.metrics.reference(deployment.champion.bundle.manifest)


def open_items(settings: Settings) -> ItemStore:
    """Open the store of the live catalogue's items. Raises CatalogueError if it cannot be opened."""
    if settings.store == "redis":
        from service.catalogue.redis import RedisItems

        assert settings.redis_url is not None, "settings with a Redis store have its address"
        return RedisItems(settings.redis_url.get_secret_value(), settings.catalogue_items)
    try:
        from service.catalogue.embedded import EmbeddedItems
    except ImportError:
        raise CatalogueError("MSD_CATALOGUE=on needs LMDB: pip install 'msd-ctr[live]'") from None
    assert settings.state_dir is not None, "settings with an embedded catalogue have its folder"
    return EmbeddedItems(settings.state_dir / "catalogue", settings.catalogue_items)


def open_live_store(settings: Settings, metrics: Metrics) -> LiveStore:
    """Open the store of live states. Raises LiveError if it cannot be opened."""
    if settings.store == "redis":
        from service.live.redis import RedisStates

        return RedisStates(settings, metrics)
    try:
        from service.live.embedded import EmbeddedStates, StateFile
    except ImportError:
        raise LiveError(
            "MSD_LIVE=on keeps live states in LMDB, which is not installed: pip install 'msd-ctr[live]'"
        ) from None
    assert settings.state_dir is not None, "settings with an embedded live state have its folder"
    file = StateFile(settings.state_dir, settings.state_mb * 2**20, limits.EVENT_HORIZON_S)
    metrics.state_bytes.set_function(file.used_bytes)
    metrics.evicted_states.set_function(lambda: file.room.evicted)
    return EmbeddedStates(file)
