"""Which model scores whom: an immutable generation of arms, and the worker's place for the current one."""

from dataclasses import dataclass

from msd.contract.schema import FeatureSchema
from service.lineup.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A model under a name."""

    name: str
    model: Model


class Lineup:
    """The arms that share the users among them. It never changes: another takes its place."""

    __slots__ = ("_only", "arms", "generation")

    def __init__(self, generation: int, arms: tuple[Arm, ...]) -> None:
        self.generation = generation
        self.arms = arms
        (self._only,) = arms

    def arm_of(self, user_id: str) -> Arm:
        """The arm that scores this user."""
        return self._only

    def schema_of(self, user_id: str) -> FeatureSchema:
        """What this user's requests are checked by."""
        return self.arm_of(user_id).model.schema

    @property
    def models(self) -> tuple[Model, ...]:
        """All that are loaded for it."""
        return tuple(arm.model for arm in self.arms)

    @property
    def champion(self) -> Model:
        """The model of the first arm."""
        return self.arms[0].model


class Serving:
    """What a worker serves now. A request reads `current` once, and keeps to what it read."""

    __slots__ = ("current",)

    def __init__(self, current: Lineup) -> None:
        self.current = current

    async def close(self) -> None:
        """Lets go of what the models hold."""
        for model in self.current.models:
            await model.store.close()
