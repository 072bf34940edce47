"""What is to be served: arms and shadows by name, with the verified bundles that they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.models.model import ModelKey


@dataclass(frozen=True)
class PlannedModel:
    """A verified bundle: its manifest's hash, where it is to be read, and the folder that people know it by."""

    identity: str
    folder: Path
    origin: Path


@dataclass(frozen=True)
class PlannedArm:
    """A model under a name, and the share of the users that it scores, relative to the others'."""

    name: str
    model: PlannedModel
    weight: float = 1.0


@dataclass(frozen=True)
class PlannedShadow:
    """A model under a name that scores nobody, and is compared with those that do."""

    name: str
    model: PlannedModel


@dataclass(frozen=True, eq=False)
class Plan:
    """A line-up that is not loaded yet."""

    arms: tuple[PlannedArm, ...]
    salt: str = ""
    shadows: tuple[PlannedShadow, ...] = ()
    keeps: Sequence[object] = ()
    """What holds the bundles' files open (`Held`), for as long as somebody has the plan."""

    @property
    def models(self) -> dict[ModelKey, PlannedModel]:
        """Those to be loaded: of arms, and once more of shadows, whose runs are at the same time as those of arms."""
        arms = {(arm.model.identity, False): arm.model for arm in self.arms}
        return arms | {(shadow.model.identity, True): shadow.model for shadow in self.shadows}

    def is_like(self, other: "Plan") -> bool:
        """Whether it would serve the same, wherever the files are."""
        return self._outline() == other._outline()

    def _outline(self) -> object:
        return (
            self.salt,
            [(arm.name, arm.weight, arm.model.identity) for arm in self.arms],
            [(shadow.name, shadow.model.identity) for shadow in self.shadows],
        )
