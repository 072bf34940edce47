"""The rollout of generations, whatever workers do in whatever order: nobody turns to what not all have loaded, and in
the end what was wanted last is served, or was refused. Workers are played here; the real ones are in `test_swap`."""

import heapq
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.channel import Said
from service.lineup.follower import Proposal, Trouble
from service.lineup.held import Held
from service.lineup.plan import PlannedModel
from service.lineup.rollout import Rollout
from service.lineup.source import Wanted, WantedArm
from service.metrics import Metrics
from service.shared import SUPERVISOR, SharedNumbers
from service.worker_process import WorkerProcess


class PlayedHeld:
    """A bundle by its name alone."""

    def __init__(self, name: str) -> None:
        self.planned = PlannedModel(identity=name, folder=Path(name), origin=Path(name))


def proposal(name: str) -> Proposal:
    """One bundle."""
    folder = Path(name)
    return Proposal(Wanted((WantedArm("champion", folder),)), MappingProxyType({folder: cast(Held, PlayedHeld(name))}))


class PlayedWorker:
    """Notes what it was sent. It is its own channel."""

    pids = itertools.count(1)

    def __init__(self, slot: int, generation: int) -> None:
        self.slot, self.generation, self.pid = slot, generation, next(self.pids)
        self.is_serving = self.is_killed = False
        self.reason = ""
        self.loaded = {generation}
        self.sent: list[tuple[int, str]] = []

    @property
    def channel(self) -> "PlayedWorker":
        """Itself."""
        return self

    def load(self, descriptor: int) -> bool:
        """Is told to load."""
        plan = json.loads(os.pread(descriptor, 65_536, 0))
        self.sent.append((plan["generation"], plan["arms"][0]["model"]["identity"]))
        return True

    def kill(self) -> None:
        """Is ended by the supervisor."""
        self.is_killed = True


class Stage:
    """A supervisor's part: workers by slot, and time."""

    def __init__(self, slots: int) -> None:
        self.now = 0.0
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        numbers = SharedNumbers.create(slots)
        self.metrics = Metrics(numbers, SUPERVISOR)
        self.workers: dict[int, PlayedWorker] = {}
        self.rollout = Rollout(
            proposal("first"), self.metrics, cast("dict[int, WorkerProcess]", self.workers), self.after
        )
        self.slots = slots
        for slot in range(1, slots + 1):
            self.start(slot)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.due, (self.now + seconds, next(self.count), call))

    def pass_time(self, seconds: float) -> None:
        """What is due is done."""
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, _, call = heapq.heappop(self.due)
            call()
        self.now = end

    @property
    def generation(self) -> int:
        """What all serve."""
        return int(self.metrics.of_supervisor[self.metrics.generation.place])

    def start(self, slot: int) -> None:
        worker = self.workers[slot] = PlayedWorker(slot, self.rollout.plan.generation)
        if self.rollout.joined(cast(WorkerProcess, worker)):
            self.admit(worker)

    def admit(self, worker: PlayedWorker) -> None:
        worker.is_serving = True
        self.rollout.admitted(cast(WorkerProcess, worker))

    def die(self, slot: int) -> None:
        worker = self.workers.pop(slot)
        self.rollout.left(cast(WorkerProcess, worker))

    def answer(self, slot: int, how: str) -> None:
        """The worker is done with the first that it was sent."""
        worker = self.workers[slot]
        if not worker.sent:
            return
        generation, identity = worker.sent.pop(0)
        what: Literal["loaded", "refused"] = (
            "loaded" if how == "loaded" and not identity.startswith("bad") else "refused"
        )
        if what == "loaded":
            worker.loaded.add(generation)
        said = Said(what=what, generation=generation, reason=how, again=how == "again")
        if self.rollout.hear(cast(WorkerProcess, worker), said):
            self.admit(worker)
        if worker.is_killed:
            self.die(slot)

    def check(self) -> None:
        """Whoever takes connections has loaded what is served."""
        for worker in self.workers.values():
            if worker.is_serving:
                assert self.generation in worker.loaded

    def settle(self) -> None:
        """All that can answer do, well, until nothing is left."""
        for _ in range(60):
            for slot in range(1, self.slots + 1):
                if slot not in self.workers:
                    self.start(slot)
                self.answer(slot, "loaded")
                self.check()
            self.pass_time(1.0)


ACTIONS = st.one_of(
    st.tuples(st.just("want"), st.sampled_from(["first", "good", "better", "bad"])),
    st.tuples(st.just("trouble"), st.just("")),
    st.tuples(st.just("answer"), st.integers(1, 3)),
    st.tuples(st.just("again"), st.integers(1, 3)),
    st.tuples(st.just("die"), st.integers(1, 3)),
    st.tuples(st.just("start"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 1.0, 5.0])),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(ACTIONS, max_size=40))
def test_whatever_happens(slots: int, actions: list[tuple[str, object]]) -> None:
    stage = Stage(slots)
    wanted = "first"
    for action, what in actions:
        if action == "want":
            wanted = str(what)
            stage.rollout.hear_of(proposal(wanted))
        elif action == "trouble":
            stage.rollout.hear_of(Trouble("no bundle here"))
            wanted = ""
        elif action == "wait":
            stage.pass_time(cast(float, what))
        else:
            _play(stage, action, cast(int, what))
        stage.check()
    # Once more, so that what was refused because workers died is not what is waited for.
    if wanted:
        stage.rollout.hear_of(proposal(wanted))
    stage.settle()

    served = stage.rollout.plan.arms[0].model.identity
    is_refused = bool(stage.metrics.of_supervisor[stage.metrics.refused.place])
    assert stage.generation == stage.rollout.plan.generation
    assert all(worker.is_serving for worker in stage.workers.values())
    assert (served == wanted) is not is_refused
    assert is_refused is (wanted in ("bad", ""))
    assert stage.metrics.of_supervisor[stage.metrics.rolling] == 0


def _play(stage: Stage, action: str, slot: int) -> None:
    if slot > stage.slots:
        return
    if action == "start" and slot not in stage.workers:
        stage.start(slot)
    elif slot in stage.workers and action in ("answer", "again", "die"):
        if action == "die":
            stage.die(slot)
        else:
            stage.answer(slot, "loaded" if action == "answer" else "again")


def test_a_bundle_that_workers_die_of_costs_one_of_them_twice(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(3)
    stage.rollout.hear_of(proposal("good"))
    (victim,) = [slot for slot, worker in stage.workers.items() if worker.sent]
    for _ in range(2):
        stage.die(victim)
        assert not any(worker.sent for worker in stage.workers.values())
        stage.start(victim)
    stage.settle()

    assert stage.generation == 1
    assert stage.metrics.of_supervisor[stage.metrics.refused.place] == 1
    assert "2 workers ended while they loaded it" in capsys.readouterr().out


def test_nobody_waits_for_ever_for_a_worker_that_hangs() -> None:
    stage = Stage(2)
    stage.rollout.hear_of(proposal("good"))
    stage.pass_time(301)
    assert stage.metrics.of_supervisor[stage.metrics.refused.place] == 1
    stage.rollout.hear_of(proposal("better"))
    stage.settle()
    assert stage.rollout.plan.arms[0].model.identity == "better"
