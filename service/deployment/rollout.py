"""Rolls out the next deployment, in a background thread: watches the source, verifies, loads and proves the new bundles
beside the current ones, then has the event loop switch one reference. A bad bundle is refused, and nothing changes.

The thread has the serving threads' priority, and rests after each step (decision 16).
"""

import asyncio
import errno
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import structlog

from msd.contract.bundle import RANKER, RANKER_INT8, Manifest, Pause
from msd.contract.errors import BundleError, MsdError
from service.deployment.bundle_folder import SourceError
from service.deployment.pinned_bundle import DeploymentPlan, Marks, PinnedBundle, marks_of
from service.deployment.proof import Pace, Stopped, prove
from service.deployment.source import Source, Wanted
from service.errors import StoreError
from service.machine import free_memory
from service.rows.store import RowStore
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust
from service.watched_files import LONGEST_LOOK_S, Looks

_EVERY_S = 0.4
# Rest after each step, as a multiple of its duration.
_REST = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LOOP_S = 0.1
# Peak memory while loading, as a multiple of the graph's file (ONNX Runtime 1.8, OpenVINO 2.1 for its two graphs).
_TIMES_GRAPH = 2.5
_BESIDE_BYTES = 32 * 2**20
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}


Prepare = Callable[[Model], Coroutine[Any, Any, None]]


class OutOfResources(MsdError):
    """A bundle cannot be loaded now, for lack of memory or open files; try again later."""


class SourceReading(NamedTuple):
    """What the source says; `wanted` is None, with a reason, if that is unknown."""

    wanted: Wanted | None
    marks: Mapping[Path, Marks]
    reason: str = ""


class BundleFollower:
    """Watches the source, and verifies bundles.

    `parent` is a folder for the names of pinned files; without rows in files, bundles are pinned without theirs.
    """

    def __init__(self, settings: Settings, parent: Path | None) -> None:
        self._source = Source(settings)
        self._trust = Trust(settings.trusted_keys)
        self._parent = parent
        self._rows = settings.store == "file"
        self._known: dict[tuple[Path, Marks], PinnedBundle] = {}

    def look(self) -> SourceReading:
        try:
            wanted = self._source.wanted()
            return SourceReading(wanted, {folder: marks_of(folder, self._rows) for folder in wanted.folders})
        except MsdError as error:
            return SourceReading(None, {}, str(error))
        except OSError as error:
            return SourceReading(None, {}, f"{error.filename}: {error.strerror}")

    def first(self) -> DeploymentPlan:
        """Return the verified plan of what should be served now. Raises MsdError."""
        self.reading = self.look()
        return self.verified(self.reading)

    def verified(self, reading: SourceReading, pause: Pause = lambda: None) -> DeploymentPlan:
        """Verify what was seen; bundles that are already pinned are reused. Raises MsdError."""
        if reading.wanted is None:
            raise SourceError(reading.reason)
        keys = {folder: (folder, reading.marks[folder]) for folder in reading.wanted.folders}
        found = {
            folder: self._known.get(key) or PinnedBundle(folder, self._parent, self._rows, self._trust, pause)
            for folder, key in keys.items()
        }
        self._known = {keys[folder]: pinned for folder, pinned in found.items()}
        return DeploymentPlan(reading.wanted, found)


class Rollout:
    """Keeps the wanted deployment served. `plan`: what is served already, as verified by the follower."""

    def __init__(
        self,
        follower: BundleFollower,
        plan: DeploymentPlan,
        serving: Serving,
        settings: Settings,
        metrics: Metrics,
        prepare: Prepare | None = None,
    ) -> None:
        """`prepare`: makes a model's rows of items that its export does not know, before it serves."""
        self._follower = follower
        self._seen = self._handled = follower.reading
        # The plan keeps the served files open: the text encoder reads its own only on first use.
        self._served = plan
        self._serving = serving
        self._settings = settings
        self._metrics = metrics
        self._prepare = prepare
        self._generation = serving.current.generation
        self._pace = Pace(_REST)
        self._looks = Looks("bundle", follower.look)
        self._looked_at = time.monotonic()
        self._hangs = False
        metrics.watched_ages["bundle"].set_function(lambda: time.monotonic() - self._looked_at)
        self._again_at = math.inf
        self._again_s = _FIRST_PAUSE_S
        self._log = structlog.get_logger("msd.rollout")

    def start(self) -> None:
        """Start following changes. Called in the loop."""
        self._loop = asyncio.get_running_loop()
        for model in self._serving.current.models.values():
            self._close_store_after(model)
        threading.Thread(target=self._follow, name="rollout").start()

    def stop(self) -> None:
        self._pace.stop()

    def _follow(self) -> None:
        while self._pace.sleep(_EVERY_S):
            try:
                self._look()
            except Stopped:
                return
            except Exception as error:
                self._log.exception("cannot_follow", reason=str(error))

    def _look(self) -> None:
        """Look for changes. Only what looks the same twice is opened, so that a copy in progress can finish."""
        reading, before = self._reading(), self._seen
        if reading is None:
            return
        self._seen = reading
        is_new = reading != self._handled
        if reading != before or not (is_new or time.monotonic() >= self._again_at):
            return
        if is_new:
            self._again_s = _FIRST_PAUSE_S
        self._handled, self._again_at = reading, math.inf
        try:
            self._lead_to(reading)
        except (StoreError, OutOfResources) as error:
            self._again_at = time.monotonic() + self._again_s
            self._set_result("postponed")
            self._log.warning("swap_postponed", reason=str(error), again_in=self._again_s)
            self._again_s = min(2 * self._again_s, _LONGEST_PAUSE_S)
        except MsdError as error:
            self._set_result("refused")
            self._log.error("bundle_refused", reason=str(error))

    def _reading(self) -> SourceReading | None:
        """Look at the source; None if that takes too long, because a file system hangs. Raises Stopped."""
        look, began = self._looks.begin(), time.monotonic()
        while not futures.wait([look], _LOOP_S).done:
            self._pace.check()
            if time.monotonic() > began + LONGEST_LOOK_S:
                if not self._hangs:
                    self._log.error("cannot_look", reason="the file system does not answer")
                self._hangs = True
                return None
        self._hangs, self._looked_at = False, began
        return look.result()

    def _lead_to(self, reading: SourceReading) -> None:
        """Serve what was read. Raises MsdError if it is refused; StoreError or OutOfResources if that may pass."""
        self._pace.begin()
        try:
            plan = self._follower.verified(reading, self._pace.pause)
            if plan.is_like(self._served):
                self._served = plan
                self._set_result(None)
                return
            self._generation += 1
            bundles = {arm.name: str(arm.folder) for arm in plan.wanted.arms}
            self._log.info("swap_begins", generation=self._generation, bundles=bundles)
            models = self._serving.current.models
            for key, pinned in plan.models.items():
                if key not in models:
                    models[key] = self._load(pinned)
            deployment = plan.deployment(models, self._generation)
        except (Stopped, StoreError):
            raise
        except Exception as error:
            if is_scarce(error):
                raise OutOfResources(str(error)) from error
            if isinstance(error, MsdError):
                raise
            self._log.exception("cannot_load", reason=str(error))
            raise BundleError(f"the model failed ({type(error).__name__}); the log has the reason") from error
        self._in_loop(self._switch(plan, deployment))
        self._log.info("swapped", generation=self._generation, bundles=bundles)

    def _load(self, pinned: PinnedBundle) -> Model:
        check_memory(pinned.bundle.manifest, pinned.origin)
        model = pinned.load(self._settings, self._metrics)
        self._close_store_after(model)
        self._pace.pause()
        prove(model, self._settings.max_candidates, self._pace)
        pinned.check_unchanged(self._pace.pause)
        self._in_loop(model.store.check())
        if self._prepare is not None:
            self._in_loop(self._prepare(model))
        self._log.info("model_loaded", bundle=str(pinned.origin), model_version=model.version)
        return model

    async def _switch(self, plan: DeploymentPlan, deployment: Deployment) -> None:
        self._served = plan
        self._serving.turn(deployment)
        self._set_result("done")

    def _set_result(self, result: Literal["done", "refused", "postponed"] | None) -> None:
        self._serving.is_refused = result in ("refused", "postponed")
        self._metrics.refused.set(self._serving.is_refused)
        if result is not None:
            self._metrics.swaps[result].inc()

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the event loop and wait. Raises what it raises; Stopped if the service ends meanwhile."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while not futures.wait([future], _LOOP_S).done:
            self._pace.check()
        future.result()

    def _close_store_after(self, model: Model) -> None:
        """Close the store when the model is freed, after its last request."""
        weakref.finalize(model, _close, self._loop, model.store).atexit = False


def check_memory(manifest: Manifest, folder: Path, root: Path = Path("/")) -> None:
    """Raise OutOfResources if loading the bundle in `folder` would take more memory than is free.

    The kernel kills a process that exceeds its control group's limit.
    """
    graphs = sum(manifest.files[name].size for name in (RANKER, RANKER_INT8) if name in manifest.files)
    wanted = int(_TIMES_GRAPH * graphs) + _BESIDE_BYTES
    free = free_memory(root)
    if free is not None and wanted > free:
        raise OutOfResources(
            f"{folder}: loading it takes about {wanted >> 20} MB of memory, but {free >> 20} MB are left for this"
            " process; raise its memory limit, or free memory"
        )


def is_scarce(error: BaseException | None) -> bool:
    """Return whether an error came from lack of memory, open files or the like, which may pass."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SCARCE):
            return True
        error = error.__cause__ or error.__context__
    try:  # a runtime that could not open a file does not say why
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _close(loop: asyncio.AbstractEventLoop, store: RowStore) -> None:
    with suppress(RuntimeError):  # the loop, and with it the service, has ended
        loop.call_soon_threadsafe(lambda: loop.create_task(store.close()))
