"""What a worker is told to load: the arms and shadows of one generation, with the folders of their bundles.

It crosses from the supervisor to its workers as JSON, in a file without a name.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from msd.contract.rows import RowSide
from service.metrics import MAX_ARMS, MAX_SHADOWS

# Linux alone.
_MEMFD = getattr(os, "memfd_create", None)


ModelKey = tuple[str, bool]
"""A bundle's identity, and whether it is loaded for a shadow."""


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedModel(_Planned):
    """A verified bundle: its manifest's hash, where it is to be read, and the folder that people know it by."""

    identity: str
    folder: Path
    origin: Path
    memory: dict[RowSide, Path] = {}
    """Memory that workers share for its rows."""


class PlannedArm(_Planned):
    """A model under a name, and the share of the users that it scores, relative to the others'."""

    name: str
    model: PlannedModel
    weight: Annotated[float, Field(ge=0)] = 1.0


class PlannedShadow(_Planned):
    """A model under a name that scores nobody, and is compared with those that do."""

    name: str
    model: PlannedModel


class Plan(_Planned):
    """A line-up to be."""

    generation: int
    arms: Annotated[tuple[PlannedArm, ...], Field(min_length=1, max_length=MAX_ARMS)]
    salt: str = ""
    shadows: Annotated[tuple[PlannedShadow, ...], Field(max_length=MAX_SHADOWS)] = ()

    @property
    def models(self) -> dict[ModelKey, PlannedModel]:
        """Those to be loaded: of arms, and once more of shadows, whose runs are at the same time as those of arms."""
        arms = {(arm.model.identity, False): arm.model for arm in self.arms}
        return arms | {(shadow.model.identity, True): shadow.model for shadow in self.shadows}

    def is_like(self, other: "Plan") -> bool:
        """Whether it would serve the same, whatever its generation, and wherever the files are."""
        return self._outline() == other._outline()

    def _outline(self) -> object:
        return (
            self.salt,
            [(arm.name, arm.weight, arm.model.identity) for arm in self.arms],
            [(shadow.name, shadow.model.identity) for shadow in self.shadows],
        )

    def descriptor(self) -> int:
        """A file that holds it, for another process; the caller's to close."""
        with tempfile.TemporaryFile() if _MEMFD is None else os.fdopen(_MEMFD("msd-plan"), "wb") as file:
            file.write(self.model_dump_json().encode())
            file.flush()
            return os.dup(file.fileno())

    @classmethod
    def read(cls, descriptor: int) -> "Plan":
        """What another process's `descriptor` holds; closes it."""
        try:
            return cls.model_validate_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        finally:
            os.close(descriptor)
