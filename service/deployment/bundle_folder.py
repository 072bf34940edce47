"""A folder of bundles: its pointers `current` and `previous`, and an experiment, which splits users between bundles by
weight or only compares scores.

A name leads only to a folder in this folder. Does not know what a bundle contains.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError, first_fault
from msd.contract.files import open_regular, read_small, write_text_atomic
from service.telemetry.metrics import MAX_ARMS, MAX_SHADOWS

CURRENT, PREVIOUS = "current", "previous"
EXPERIMENT = "experiment.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_POINTER_BYTES = 4_096
_MAX_EXPERIMENT_BYTES = 65_536

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
BundleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="`current` follows it.")]


class SourceError(MsdError):
    """The bundle to serve is unknown or cannot be changed; the message says where to look."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ExperimentArm(_Part):
    """A bundle that scores its share of the users: its weight among all weights."""

    name: Name
    bundle: BundleName
    weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class ExperimentShadow(_Part):
    """A bundle that scores on spare capacity, for comparison; its scores are not returned."""

    name: Name
    bundle: BundleName


class Experiment(_Part):
    """Assignment of bundles to users. A new salt reassigns all users; new weights move as few as possible."""

    salt: Annotated[str, Field(min_length=1, max_length=128)]
    arms: Annotated[list[ExperimentArm], Field(min_length=1, max_length=MAX_ARMS)]
    shadow: Annotated[list[ExperimentShadow], Field(max_length=MAX_SHADOWS)] = []

    @property
    def bundles(self) -> frozenset[str]:
        return frozenset([*(arm.bundle for arm in self.arms), *(shadow.bundle for shadow in self.shadow)])

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        names = [arm.name for arm in self.arms] + [shadow.name for shadow in self.shadow]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} occurs twice")
        if not any(arm.weight for arm in self.arms):
            raise ValueError("all weights are 0: at least one must be positive")
        return self


def is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_pointer(path: Path) -> Path:
    """Return the folder of a pointer: a symbolic link, or a file with the name of a folder beside it. Raises
    SourceError if there is no such folder."""
    if path.is_symlink() and path.is_dir():
        return path.resolve()
    if not _NAME.fullmatch(name := _written(path)):
        raise SourceError(f"{path}: is a file that should name a bundle's folder beside it, but holds {name[:60]!r}")
    return named_bundle(path.parent, name)


def named_bundle(folder: Path, name: str) -> Path:
    """Return the bundle of that name in a folder of bundles. Raises SourceError."""
    if not _NAME.fullmatch(name) or name in (CURRENT, PREVIOUS):
        raise SourceError(f"{folder}: {name[:60]!r} is not the name of a bundle's folder in it")
    found = (folder / name).resolve()
    if found.parent != folder.resolve():
        raise SourceError(f"{folder / name}: leads out of the folder of bundles")
    if not is_bundle(found):
        raise SourceError(f"{folder}: has no bundle {name!r}")
    return found


def point_to(folder: Path, name: str) -> None:
    """Make the named bundle current, and the current one previous. Raises SourceError."""
    named_bundle(folder, name)
    with _changing(folder):
        old = _target(folder / CURRENT)
        if old != name:
            _turn(folder, name, old)


def roll_back(folder: Path) -> str:
    """Exchange current and previous, and return the new current folder. Raises SourceError without a previous one."""
    with _changing(folder):
        current, previous = _target(folder / CURRENT), _target(folder / PREVIOUS)
        if previous is None:
            raise SourceError(f"{folder}: has no pointer `{PREVIOUS}`, so there is nothing to roll back to")
        if current == previous:
            raise SourceError(f"{folder}: `{PREVIOUS}` is the current one already, {previous}")
        if not is_bundle(read_pointer(folder / PREVIOUS)):
            raise SourceError(f"{folder / PREVIOUS}: leads to {previous}, which is not a bundle")
        _turn(folder, previous, current)
    return previous


def read_experiment(folder: Path) -> Experiment | None:
    """Return the experiment of a folder of bundles, None if there is none. Raises SourceError if it is invalid."""
    path = folder / EXPERIMENT
    if not os.path.lexists(path):
        return None
    text = read_small(path, _MAX_EXPERIMENT_BYTES, SourceError)
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as error:
        raise SourceError(f"{path}: {first_fault(error)}") from None


def write_experiment(folder: Path, experiment: Experiment) -> None:
    """Replace the experiment atomically. Raises SourceError."""
    path = folder / EXPERIMENT
    try:
        write_text_atomic(path, experiment.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be written: {error.strerror}") from error


def remove_experiment(folder: Path) -> None:
    """End the experiment: all users are scored by the current bundle. Raises SourceError."""
    try:
        (folder / EXPERIMENT).unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{folder / EXPERIMENT}: cannot be removed: {error.strerror}") from error


def _turn(folder: Path, current: str, previous: str | None) -> None:
    """The service reads only `current`, so this pointer changes atomically."""
    _write(folder / CURRENT, current)
    if previous is not None:
        _write(folder / PREVIOUS, previous)


def _target(path: Path) -> str | None:
    if not os.path.lexists(path):
        return None
    return os.readlink(path) if path.is_symlink() else _written(path)


def _written(path: Path) -> str:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return file.read(_MAX_POINTER_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SourceError(f"{path}: is a dangling pointer; point it to the folder of a bundle") from None


def _write(path: Path, target: str) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.symlink_to(target)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise SourceError(f"{path}: cannot be replaced: {error.strerror}") from error


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """Hold the lock for changes; it is released if its holder dies."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SourceError(f"{folder}: not a folder of bundles: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
