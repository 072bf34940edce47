"""Which model scores whom: an immutable generation of arms, and the worker's place for the current one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from msd.contract.schema import FeatureSchema
from service.lineup.assignment import Assignment
from service.lineup.model import Model
from service.lineup.plan import ModelKey
from service.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A model under a name, and the share of the users that it scores. `slot` counts arms from 1."""

    name: str
    model: Model
    slot: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """A model under a name that scores nobody. `slot` counts shadows from 1."""

    name: str
    model: Model
    slot: int


class Lineup:
    """The arms that share the users among them. It never changes: another takes its place."""

    __slots__ = ("__weakref__", "_assignment", "_only", "arms", "generation", "shadows")

    def __init__(
        self, generation: int, arms: tuple[Arm, ...], assignment: Assignment, shadows: tuple[Shadow, ...] = ()
    ) -> None:
        self.generation = generation
        self.arms = arms
        self.shadows = shadows
        self._assignment = assignment
        self._only = arms[0] if len(arms) == 1 else None

    @property
    def is_split(self) -> bool:
        """Whether there is more than one arm."""
        return self._only is None

    def arm_of(self, user_id: str) -> Arm:
        """The arm that scores this user."""
        return self._only or self.arms[self._assignment.place_of(user_id)]

    def schema_of(self, user_id: str) -> FeatureSchema:
        """What this user's requests are checked by."""
        return self.arm_of(user_id).model.schema

    @property
    def models(self) -> dict[ModelKey, Model]:
        """All that are loaded for it, those of its arms first."""
        arms = {(arm.model.identity, False): arm.model for arm in self.arms}
        return arms | {(shadow.model.identity, True): shadow.model for shadow in self.shadows}

    @property
    def champion(self) -> Model:
        """The model of the first arm."""
        return self.arms[0].model


class Serving:
    """What a worker serves. Which generation that is stands in memory that all workers share, so that all of them turn
    to another at once; each has loaded it before."""

    __slots__ = ("_cells", "_current", "_kept", "_leaving", "_left", "_metrics", "_place", "_turned")

    def __init__(self, current: Lineup, metrics: Metrics, turned: Callable[[Lineup], None]) -> None:
        """`turned` is called with each line-up that is turned to."""
        self._current = current
        self._metrics = metrics
        self._cells = metrics.of_supervisor
        self._place = metrics.generation.place
        self._turned = turned
        self._kept: dict[int, Lineup] = {}
        self._left: list[Lineup] = []
        self._leaving: list[Lineup] = []

    @property
    def current(self) -> Lineup:
        """The line-up that serves now. A request looks once, and keeps to what it saw."""
        current = self._current
        if self._cells[self._place] != current.generation:
            return self._turn()
        return current

    @property
    def loaded(self) -> list[Lineup]:
        """The current one, and those that may become so."""
        return [self._current, *self._kept.values()]

    async def close(self) -> None:
        """At the worker's end: lets go of what the models hold."""
        for lineup in (*self.loaded, *self._left, *self._leaving):
            for model in lineup.models.values():
                await model.store.close()

    def keep(self, lineup: Lineup) -> None:
        """It is loaded and proved, and may be turned to."""
        self._kept[lineup.generation] = lineup

    def tidy(self) -> bool:
        """Lets go of what was left, or will not be turned to; whether there was anything. To be called now and then."""
        _ = self.current
        rolling = self._cells[self._metrics.rolling]
        self._left += [self._kept.pop(generation) for generation in list(self._kept) if generation != rolling]
        # A turn later, when those whom it scored have their replies.
        doomed, self._leaving, self._left = self._leaving, self._left, []
        if doomed:
            # A runtime may take tens of milliseconds to free what it has, without Python's lock.
            threading.Thread(target=doomed.clear, name="leaving", daemon=True).start()
        return bool(self._leaving)

    def _turn(self) -> Lineup:
        wanted = self._kept.pop(int(self._cells[self._place]), None)
        if wanted is not None:
            self._left.append(self._current)
            self._current = wanted
            self._turned(wanted)
        return self._current
