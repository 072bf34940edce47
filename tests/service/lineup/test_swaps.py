"""Swaps, whatever is found in whatever order: in the end what was wanted last is served, or was refused; what is
refused never is. Loading is played here; the real one is in `test_swap`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.errors import BundleError
from service.deployment.follower import Trouble
from service.deployment.loader import Loader
from service.deployment.plan import Plan, PlannedArm, PlannedModel
from service.deployment.swaps import Swaps
from service.errors import StoreError
from service.models.lineup import Arm, Assignment, Lineup, Serving
from service.models.model import Model
from service.telemetry.metrics import Metrics


def plan_of(name: str) -> Plan:
    """One bundle, which is its name alone."""
    return Plan((PlannedArm("champion", PlannedModel(name, Path(name), Path(name))),))


def lineup_of(name: str, generation: int) -> Lineup:
    """What loading such a bundle gives."""
    model = cast(Model, SimpleNamespace(identity=name))
    return Lineup(generation, (Arm("champion", model),), Assignment("", ["champion"], [1.0]))


class PlayedLoader:
    """Loads by name: `bad` is refused, `odd` fails, `late` has no rows for the first two tries."""

    def __init__(self) -> None:
        self.tries: list[str] = []

    async def load(self, plan: Plan, generation: int) -> Lineup:
        """After a moment."""
        name = plan.arms[0].model.identity
        self.tries.append(name)
        await asyncio.sleep(0)
        if name == "bad":
            raise BundleError("no bundle")
        if name == "odd":
            raise ZeroDivisionError("odd")
        if name == "late" and self.tries.count(name) <= 2:
            raise StoreError("no rows yet", None)
        return lineup_of(name, generation)


class Stage:
    """Swaps over a loader that is played."""

    def __init__(self) -> None:
        self.loader = PlayedLoader()
        self.served: list[str] = []
        self.generations = [1]
        self.serving = Serving(lineup_of("first", 1), self._note)
        self.metrics = Metrics()
        self.swaps = Swaps(plan_of("first"), self.serving, cast(Loader, self.loader), self.metrics)

    def _note(self, lineup: Lineup) -> None:
        self.served.append(str(lineup.champion.identity))
        self.generations.append(lineup.generation)

    async def play(self, found: Sequence[Plan | Trouble], turns: Sequence[int]) -> None:
        """Hears of one after the other, with so many turns of the loop between, and then rests."""
        self.swaps.begin()
        for one, count in zip(found, turns, strict=True):
            self.swaps.hear_of(one)
            for _ in range(count):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        await self.swaps.end()


WANTED = st.sampled_from(["first", "good", "better", "bad", "odd", ""])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WANTED, st.integers(0, 4)), min_size=1, max_size=12))
def test_whatever_happens(actions: list[tuple[str, int]]) -> None:
    stage = Stage()
    found: list[Any] = [plan_of(name) if name else Trouble("leads nowhere") for name, _ in actions]
    asyncio.run(stage.play(found, [turns for _, turns in actions]))

    wanted = actions[-1][0]
    assert set(stage.served) <= {"first", "good", "better"}
    assert stage.generations == sorted(set(stage.generations))
    is_refused = wanted in ("bad", "odd", "")
    assert stage.serving.is_refused is is_refused
    if not is_refused:
        assert stage.serving.current.champion.identity == wanted


def test_what_is_served_already_is_not_loaded_again() -> None:
    stage = Stage()
    asyncio.run(stage.play([plan_of("first"), plan_of("good"), plan_of("good")], [5, 5, 5]))
    assert stage.loader.tries == ["good"]
    assert stage.served == ["good"]


def test_rows_that_are_not_there_yet_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage()

    async def wait() -> None:
        stage.swaps.begin()
        stage.swaps.hear_of(plan_of("late"))
        while not stage.served:
            assert stage.serving.current.generation == 1
            await asyncio.sleep(0.01)
        await stage.swaps.end()

    asyncio.run(asyncio.wait_for(wait(), 60))
    assert stage.loader.tries == ["late"] * 3
    assert not stage.serving.is_refused
    assert capsys.readouterr().out.count("swap_postponed") == 2


def test_who_waits_for_rows_turns_to_what_is_wanted_instead() -> None:
    stage = Stage()
    asyncio.run(stage.play([plan_of("late"), plan_of("good")], [10, 10]))
    assert stage.loader.tries == ["late", "good"]
    assert stage.served == ["good"]
