"""What the service serves, and how it parts with what it served before."""

import asyncio
import threading
import time
import weakref
from dataclasses import replace

import pytest

from msd.contract.bundle import Bundle
from service.deployment.pinned_bundle import DeploymentPlan, PinnedBundle
from service.deployment.source import alone
from service.scoring.lineup import Lineup, Serving
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust


@pytest.fixture
def lineup(bundle: Bundle) -> Lineup:
    """The first generation, of one model."""
    plan = DeploymentPlan(alone(bundle.folder), {bundle.folder: PinnedBundle(bundle.folder, None, True, Trust(None))})
    settings = Settings.from_environ({"MSD_BUNDLE": str(bundle.folder)})
    return plan.lineup({key: one.load(settings, Metrics()) for key, one in plan.models.items()}, 1)


def another(lineup: Lineup, generation: int) -> Lineup:
    """The same again, in memory of its own."""
    (arm,) = lineup.arms
    return Lineup(generation, (replace(arm, model=replace(arm.model)),), lineup._assignment)


class Freed:
    """Tells when a line-up's model is freed, and by which thread."""

    def __init__(self, lineup: Lineup) -> None:
        self.by: threading.Thread | None = None
        self.at = 0.0
        self.event = threading.Event()
        weakref.finalize(lineup.champion, self._note)

    def _note(self) -> None:
        self.by, self.at = threading.current_thread(), time.monotonic()
        self.event.set()

    async def wait(self) -> None:
        """Until it is."""
        assert await asyncio.to_thread(self.event.wait, 60)


def test_what_was_left_is_freed_off_the_loop_and_not_at_once(lineup: Lineup) -> None:
    turned: list[int] = []
    first = another(lineup, 1)
    freed = Freed(first)
    serving = Serving(first, lambda one: turned.append(one.generation))
    del first

    async def turn() -> float:
        second, turned_at = another(lineup, 2), time.monotonic()
        serving.turn(second)
        assert serving.current is second
        assert turned == [2]
        await freed.wait()
        return freed.at - turned_at

    # Requests that it has begun may still be under way.
    assert asyncio.run(turn()) > 0.1
    assert freed.by is not threading.main_thread()


def test_a_request_at_hand_keeps_the_line_up_that_it_began_with(lineup: Lineup) -> None:
    serving = Serving(another(lineup, 1), lambda one: None)
    begun = serving.current
    freed = Freed(begun)

    async def turn() -> None:
        serving.turn(another(lineup, 2))
        await asyncio.sleep(1.5)

    asyncio.run(turn())
    assert not freed.event.is_set()
    assert begun.champion.version == lineup.champion.version
    del begun
    assert freed.event.is_set()
