"""An experiment: bundles side by side as arms that share the users by weights, and shadows that score nobody.

It is a file beside the bundles. Knows their names, not what is in them.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msd.contract.files import write_text_atomic
from service.deployment.pointers import SourceError
from service.telemetry.metrics import MAX_ARMS, MAX_SHADOWS

EXPERIMENT = "experiment.json"
_MAX_BYTES = 65_536

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
BundleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="`current` follows it.")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ExperimentArm(_Part):
    """A bundle that scores its share of the users: its weight among all weights."""

    name: Name
    bundle: BundleName
    weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class ExperimentShadow(_Part):
    """A bundle that scores on spare capacity, to be compared; nobody sees its scores."""

    name: Name
    bundle: BundleName


class Experiment(_Part):
    """Which bundles score whom. Another salt deals the users anew; weights alone move as few as can be."""

    salt: Annotated[str, Field(min_length=1, max_length=128)]
    arms: Annotated[list[ExperimentArm], Field(min_length=1, max_length=MAX_ARMS)]
    shadow: Annotated[list[ExperimentShadow], Field(max_length=MAX_SHADOWS)] = []

    @property
    def bundles(self) -> frozenset[str]:
        """The names of all that it takes."""
        return frozenset([*(arm.bundle for arm in self.arms), *(shadow.bundle for shadow in self.shadow)])

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        names = [arm.name for arm in self.arms] + [shadow.name for shadow in self.shadow]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} occurs twice")
        if not any(arm.weight for arm in self.arms):
            raise ValueError("all weights are 0, so that nobody would be scored")
        return self


def read_experiment(folder: Path) -> Experiment | None:
    """That of a folder of bundles, None where there is none. Raises SourceError when it is not one."""
    path = folder / EXPERIMENT
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise SourceError(f"{path}: has more than {_MAX_BYTES} bytes")
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SourceError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None


def write_experiment(folder: Path, experiment: Experiment) -> None:
    """Replaces it in one step. Raises SourceError."""
    path = folder / EXPERIMENT
    try:
        write_text_atomic(path, experiment.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be written: {error.strerror}") from error


def remove_experiment(folder: Path) -> None:
    """Ends it: all users are scored by the current bundle. Raises SourceError."""
    try:
        (folder / EXPERIMENT).unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{folder / EXPERIMENT}: cannot be removed: {error.strerror}") from error
