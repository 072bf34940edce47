"""What a worker serves, and how it parts with what it served before."""

import threading
import weakref
from dataclasses import replace

import pytest

from msd.contract.bundle import Bundle
from service.lineup.lineup import Lineup, Serving
from service.lineup.loader import lineup_of, load_planned
from service.lineup.plan import Plan, PlannedArm, PlannedModel
from service.metrics import Metrics
from service.settings import Settings
from service.shared import SUPERVISOR, SharedNumbers


@pytest.fixture
def numbers() -> SharedNumbers:
    """Of one worker."""
    return SharedNumbers.create(1)


@pytest.fixture
def supervisor(numbers: SharedNumbers) -> Metrics:
    """Who says which generation serves."""
    return Metrics(numbers, SUPERVISOR)


@pytest.fixture
def lineup(bundle: Bundle) -> Lineup:
    """The first generation, of one model."""
    model = PlannedModel(identity=bundle.manifest.sha256, folder=bundle.folder, origin=bundle.folder)
    plan = Plan(generation=1, arms=(PlannedArm(name="champion", model=model),))
    settings = Settings.from_environ({"MSD_BUNDLE": str(bundle.folder)})
    return lineup_of(plan, {key: load_planned(one, settings, Metrics()) for key, one in plan.models.items()})


def another(lineup: Lineup, generation: int) -> Lineup:
    """The same again, in memory of its own."""
    (arm,) = lineup.arms
    return Lineup(generation, (replace(arm, model=replace(arm.model)),), lineup._assignment)


def test_what_was_left_is_freed_off_the_loop_and_not_at_once(
    numbers: SharedNumbers, supervisor: Metrics, lineup: Lineup
) -> None:
    supervisor.generation.set(1)
    turned: list[int] = []
    first, second = another(lineup, 1), another(lineup, 2)
    serving = Serving(first, Metrics(numbers, 1), lambda one: turned.append(one.generation))
    freed: list[threading.Thread] = []
    is_freed = threading.Event()

    def note() -> None:
        freed.append(threading.current_thread())
        is_freed.set()

    weakref.finalize(first.champion, note)
    del first
    assert not serving.tidy()
    serving.keep(second)
    supervisor.set_rolling(2)
    assert serving.current.generation == 1
    supervisor.generation.set(2)
    supervisor.set_rolling(0)
    assert serving.current is second
    assert turned == [2]
    # Requests that it has begun may still be under way.
    assert not freed
    assert serving.tidy()
    assert not freed
    assert not serving.tidy()
    assert is_freed.wait(60)
    assert freed != [threading.current_thread()]
    assert serving.loaded == [second]


def test_what_was_kept_for_a_turn_that_never_came_is_let_go(
    numbers: SharedNumbers, supervisor: Metrics, lineup: Lineup
) -> None:
    supervisor.generation.set(1)
    serving = Serving(another(lineup, 1), Metrics(numbers, 1), lambda one: None)
    supervisor.set_rolling(2)
    serving.keep(another(lineup, 2))
    assert not serving.tidy()
    supervisor.set_rolling(0)
    is_freed = threading.Event()
    weakref.finalize(serving.loaded[1].champion, is_freed.set)
    assert serving.tidy()
    assert [one.generation for one in serving.loaded] == [1]
    assert not serving.tidy()
    assert is_freed.wait(60)
