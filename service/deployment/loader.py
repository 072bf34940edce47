"""Loads another line-up beside the one that serves: step by step, off the event loop, and proved at the end.

Does not know when it is turned to.
"""

import asyncio
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from msd.contract.bundle import open_verified
from msd.contract.errors import BundleError, MsdError
from service.deployment.aside import Aside
from service.deployment.plan import Plan, PlannedModel
from service.deployment.proof import Proof
from service.models.lineup import Arm, Assignment, Lineup, Serving, Shadow
from service.models.model import Model, ModelKey, load_model
from service.rows.store import RowStore
from service.settings import Settings
from service.telemetry.metrics import Metrics

# Of the time that a step of it takes: so much is left to requests before the next.
_REST = 2.0
# Python that loads gives way to Python that serves after so long, not after the usual 5 ms.
_SWITCH_S = 0.0005


class Loader:
    """One line-up is loaded at a time."""

    def __init__(self, serving: Serving, settings: Settings, metrics: Metrics) -> None:
        self._serving = serving
        self._settings = settings
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.loader")

    async def load(self, plan: Plan, generation: int) -> Lineup:
        """The line-up of a plan. Loads what is not loaded yet.

        Raises MsdError when a model is refused, StoreError when its rows cannot be had, or whatever a model fails with.
        """
        async with self._lock:
            with Aside("loader", _REST) as aside, _short_turns():
                loaded = self._serving.current.models
                for key, planned in plan.models.items():
                    if key not in loaded:
                        loaded[key] = await self._prepared(planned, aside)
            return lineup_of(plan, loaded, generation)

    def watch(self, lineup: Lineup) -> None:
        """Has the stores of its models closed as those of models that were loaded later."""
        for model in lineup.models.values():
            self._watch(model)

    def _watch(self, model: Model) -> None:
        """Has its store closed when nobody has the model any more, so after its last request."""
        loop = asyncio.get_running_loop()
        weakref.finalize(model, _call_in, loop, self._close, model.store).atexit = False

    def _close(self, store: RowStore) -> None:
        closing = asyncio.get_running_loop().create_task(store.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _prepared(self, planned: PlannedModel, aside: Aside) -> Model:
        model = await aside.do(load_planned, planned, self._settings, self._metrics)
        self._watch(model)
        await Proof(model, aside, self._settings.max_candidates).run()
        await model.store.check()
        self._log.info("model_loaded", bundle=str(planned.origin), model_version=model.version)
        return model


def load_planned(planned: PlannedModel, settings: Settings, metrics: Metrics) -> Model:
    """Loads one model of a plan. Raises MsdError."""
    try:
        return load_model(open_verified(planned.folder, planned.identity), settings, metrics)
    except MsdError as error:
        # By the folder that people know.
        raise BundleError(str(error).replace(str(planned.folder), str(planned.origin))) from error


def lineup_of(plan: Plan, models: Mapping[ModelKey, Model], generation: int) -> Lineup:
    """The line-up of a plan whose models are loaded, by identity."""
    assignment = Assignment(plan.salt, [arm.name for arm in plan.arms], [arm.weight for arm in plan.arms])
    shares = zip(plan.arms, assignment.shares, strict=True)
    return Lineup(
        generation,
        tuple(
            Arm(arm.name, models[arm.model.identity, False], slot, share) for slot, (arm, share) in enumerate(shares, 1)
        ),
        assignment,
        tuple(
            Shadow(shadow.name, models[shadow.model.identity, True], slot)
            for slot, shadow in enumerate(plan.shadows, 1)
        ),
    )


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[RowStore], None], store: RowStore) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, store)


@contextmanager
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
