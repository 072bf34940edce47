"""Leads the service from one line-up to the next: loads and proves it beside the one that serves, then switches one
reference; or refuses it, and nothing changes. Works in the event loop.
"""

import asyncio

import structlog

from msd.contract.errors import MsdError
from service.deployment.follower import Trouble
from service.deployment.loader import Loader
from service.deployment.plan import Plan
from service.errors import StoreError
from service.models.lineup import Lineup, Serving
from service.telemetry.metrics import Metrics

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Swaps:
    """Serves what was wanted last. `first` is the plan that is served already."""

    def __init__(self, first: Plan, serving: Serving, loader: Loader, metrics: Metrics) -> None:
        # With its plan, the files of what is served stay open: the text encoder reads its own only when it is needed.
        self._served = first
        self._serving = serving
        self._loader = loader
        self._metrics = metrics
        self._generation = serving.current.generation
        self._wanted: Plan | Trouble = first
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("msd.swaps")

    def begin(self) -> None:
        """From now on what is heard of is loaded."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def end(self) -> None:
        """Nothing else is turned to any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hear_of(self, found: Plan | Trouble) -> None:
        """What the follower found. A line-up that is being loaded is finished before."""
        self._wanted = found
        if isinstance(found, Trouble):
            self._refuse(found.reason)
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            plan = self._wanted
            if isinstance(plan, Plan):
                await self._lead_to(plan)

    async def _lead_to(self, plan: Plan) -> None:
        """Until it is served, refused, or something else is wanted after a failed try."""
        if plan.is_like(self._served):
            self._served = plan
            self._serving.is_refused = False
            self._metrics.refused.set(0)
            return
        pause_s = _FIRST_PAUSE_S
        while plan is self._wanted:
            self._generation += 1
            about = {
                "generation": self._generation,
                "bundles": {arm.name: str(arm.model.origin) for arm in plan.arms},
            }
            self._log.info("swap_begins", **about)
            try:
                self._turn(plan, await self._loader.load(plan, self._generation))
            except StoreError as error:
                self._postpone(str(error), pause_s)
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except MsdError as error:
                self._refuse(str(error))
                return
            except Exception as error:
                self._log.exception("cannot_load", reason=str(error))
                self._refuse(f"the model failed ({type(error).__name__}); the log has the reason")
                return
            else:
                self._log.info("swapped", **about)
                return

    async def _pause(self, seconds: float) -> None:
        """For so long, or until something else is wanted."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return

    def _turn(self, plan: Plan, lineup: Lineup) -> None:
        self._served = plan
        # What is wanted by now may have been refused already.
        self._serving.is_refused = isinstance(self._wanted, Trouble)
        self._serving.turn(lineup)
        self._metrics.swaps["done"].inc()
        self._metrics.refused.set(self._serving.is_refused)

    def _refuse(self, reason: str) -> None:
        self._metrics.swaps["refused"].inc()
        self._serving.is_refused = True
        self._metrics.refused.set(1)
        self._log.error("bundle_refused", reason=reason)

    def _postpone(self, reason: str, pause_s: float) -> None:
        self._metrics.swaps["postponed"].inc()
        self._serving.is_refused = True
        self._metrics.refused.set(1)
        self._log.warning("swap_postponed", reason=reason, again_in=pause_s)
