"""Which model scores whom: an immutable generation of arms, the share of users that falls to each, and the place of the
one that serves.
"""

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msd.contract.schema import FeatureSchema
from service.scoring.model import Model, ModelKey

_STEPS = 2.0**64
# By then those who were scored by a line-up that was left have their replies, all but some.
_LINGER_S = 1.0


class Assignment:
    """`shares` are the names' shares of all users."""

    def __init__(self, salt: str, names: Sequence[str], weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        # By name, not by place, so that a name which comes or goes moves its own users alone.
        self._racers = [
            (place, hashlib.blake2b(f"{len(salt)}:{salt}{name}\0".encode(), digest_size=8), 1.0 / weight)
            for place, (name, weight) in enumerate(zip(names, weights, strict=True))
            if weight > 0
        ]

    def place_of(self, user_id: str) -> int:
        """The place of the user's name among the names."""
        user = user_id.encode("utf-8", "surrogatepass")
        first, least = 0, math.inf
        for place, racer, slowness in self._racers:
            hashed = racer.copy()
            hashed.update(user)
            # In (0, 1].
            uniform = (int.from_bytes(hashed.digest(), "little") + 0.5) / _STEPS
            time = -math.log(uniform) * slowness
            if time < least:
                first, least = place, time
        return first


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

    __slots__ = ("__weakref__", "_assignment", "arms", "champion", "generation", "is_split", "shadows")

    def __init__(
        self, generation: int, arms: tuple[Arm, ...], assignment: Assignment, shadows: tuple[Shadow, ...] = ()
    ) -> None:
        self.generation = generation
        self.arms = arms
        self.shadows = shadows
        self._assignment = assignment
        self.champion = arms[0].model
        """The model of the first arm."""
        self.is_split = len(arms) > 1
        """Whether there is more than one arm."""

    def arm_of(self, user_id: str) -> Arm:
        """The arm that scores this user."""
        return self.arms[self._assignment.place_of(user_id) if self.is_split else 0]

    def schema_of(self, user_id: str) -> FeatureSchema:
        """What this user's requests are checked by."""
        return self.arm_of(user_id).model.schema

    @property
    def models(self) -> dict[ModelKey, Model]:
        """All that are loaded for it, those of its arms first."""
        arms = {(arm.model.identity, False): arm.model for arm in self.arms}
        return arms | {(shadow.model.identity, True): shadow.model for shadow in self.shadows}


class Serves(Protocol):
    """Whatever knows which line-up serves."""

    @property
    def current(self) -> Lineup:
        """The line-up that serves now."""
        ...


class Serving:
    """What the service serves. A request looks at `current` once, and keeps to what it saw."""

    __slots__ = ("_leaving", "_turned", "current", "is_refused")

    def __init__(self, current: Lineup, turned: Callable[[Lineup], None]) -> None:
        """`turned` is called with each line-up that is turned to."""
        self.current = current
        self.is_refused = False
        """Whether something else is wanted, which was refused or cannot be loaded yet."""
        self._turned = turned
        self._leaving: list[list[Lineup]] = []

    def turn(self, lineup: Lineup) -> None:
        """From now on requests are scored by this line-up; those at hand end with the one that they began with."""
        left = [self.current]
        self.current = lineup
        self._turned(lineup)
        self._leaving.append(left)
        asyncio.get_running_loop().call_later(_LINGER_S, self._let_go, left)

    async def close(self) -> None:
        """At the service's end: lets go of what the models hold."""
        for lineup in (self.current, *(one for left in self._leaving for one in left)):
            for model in lineup.models.values():
                await model.store.close()

    def _let_go(self, left: list[Lineup]) -> None:
        self._leaving.remove(left)
        # A runtime may take tens of milliseconds to free what it has, without Python's lock.
        threading.Thread(target=left.clear, name="leaving", daemon=True).start()
