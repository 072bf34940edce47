"""Deployments: an immutable generation of arms, the users' assignment to arms, and the reference to the deployment that
serves.
"""

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msd.contract.schema import FeatureSchema
from service.machine import return_freed_memory
from service.scoring.model import Model, ModelKey

_STEPS = 2.0**64
# By then nearly all requests of the previous deployment have their replies.
_LINGER_S = 1.0


class UserSplit:
    """Sticky assignment of users to names by shares."""

    def __init__(self, salt: str, names: Sequence[str], weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        # By name, not by index, so that adding or removing a name moves only its own users.
        self._racers = [
            (place, hashlib.blake2b(f"{len(salt)}:{salt}{name}\0".encode(), digest_size=8), 1.0 / weight)
            for place, (name, weight) in enumerate(zip(names, weights, strict=True))
            if weight > 0
        ]

    def place_of(self, user_id: str) -> int:
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
    """A named model, and its share of the users. `slot` counts arms from 1."""

    name: str
    model: Model
    slot: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """A named model whose scores are not returned. `slot` counts shadows from 1."""

    name: str
    model: Model
    slot: int


class Deployment:
    """Arms and shadows that serve together. Immutable."""

    __slots__ = ("__weakref__", "_split", "arms", "champion", "generation", "is_split", "shadows")

    def __init__(
        self, generation: int, arms: tuple[Arm, ...], split: UserSplit, shadows: tuple[Shadow, ...] = ()
    ) -> None:
        self.generation = generation
        self.arms = arms
        self.shadows = shadows
        self._split = split
        self.champion = arms[0].model
        """The model of the first arm."""
        self.is_split = len(arms) > 1
        """Whether there are several arms."""

    def arm_of(self, user_id: str) -> Arm:
        return self.arms[self._split.place_of(user_id) if self.is_split else 0]

    def schema_of(self, user_id: str) -> FeatureSchema:
        return self.arm_of(user_id).model.schema

    @property
    def models(self) -> dict[ModelKey, Model]:
        """Return all loaded models, those of arms first."""
        arms = {(arm.model.identity, False): arm.model for arm in self.arms}
        return arms | {(shadow.model.identity, True): shadow.model for shadow in self.shadows}


class Serving:
    """The serving deployment. A request reads `current` once, and keeps that deployment."""

    __slots__ = ("_leaving", "_turned", "current", "is_refused")

    def __init__(self, current: Deployment, turned: Callable[[Deployment], None]) -> None:
        """`turned` is called with each new deployment."""
        self.current = current
        self.is_refused = False
        """Whether another deployment was refused, or cannot be loaded yet."""
        self._turned = turned
        self._leaving: list[list[Deployment]] = []

    def turn(self, deployment: Deployment) -> None:
        """Switch to this deployment; requests in progress end with theirs."""
        left = [self.current]
        self.current = deployment
        self._turned(deployment)
        self._leaving.append(left)
        asyncio.get_running_loop().call_later(_LINGER_S, self._let_go, left)

    async def close(self) -> None:
        """Release what the models hold, at shutdown."""
        for deployment in (self.current, *(old for left in self._leaving for old in left)):
            for model in deployment.models.values():
                await model.store.close()

    def _let_go(self, left: list[Deployment]) -> None:
        self._leaving.remove(left)
        threading.Thread(target=_free, args=(left,), name="leaving", daemon=True).start()


def _free(left: list[Deployment]) -> None:
    """Free a runtime, which may take tens of milliseconds without Python's lock, and return its memory: the allocator
    would keep some of it after each swap, in another thread's part."""
    left.clear()
    return_freed_memory()
