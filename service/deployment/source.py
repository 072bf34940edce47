"""Where the service learns what it is to serve: a bundle's folder; or a folder of bundles, with a pointer to one of
them there or in Redis, or an experiment with several.

Looks, and reads pointers; opens no bundle. Does not know what is served now.
"""

import os
from pathlib import Path
from typing import NamedTuple

import structlog

from service.deployment.experiment import Experiment, read_experiment
from service.deployment.pointers import CURRENT, SourceError, is_bundle, named_bundle, read_pointer
from service.settings import Settings

CHAMPION = "champion"


class WantedArm(NamedTuple):
    """A bundle's folder under a name, and its weight among the arms."""

    name: str
    folder: Path
    weight: float = 1.0


class Wanted(NamedTuple):
    """What is to be served."""

    arms: tuple[WantedArm, ...]
    salt: str = ""
    shadows: tuple[WantedArm, ...] = ()

    @property
    def folders(self) -> frozenset[Path]:
        """Of all bundles that it takes."""
        return frozenset(arm.folder for arm in (*self.arms, *self.shadows))


class Source:
    """What the settings' bundle leads to, each time that it is asked."""

    def __init__(self, settings: Settings) -> None:
        self._place = settings.bundle
        self._published = Published(settings) if settings.store == "redis" else None

    def wanted(self) -> Wanted:
        """Raises SourceError when a pointer is missing or leads nowhere, or an experiment is none."""
        place = self._place
        if place.is_file():
            return _alone(read_pointer(place))
        if is_bundle(place) or not (self._published or os.path.lexists(place / CURRENT)):
            return _alone(place)
        experiment = read_experiment(place)
        return _alone(self._bundle(CURRENT)) if experiment is None else self._side_by_side(experiment)

    def _side_by_side(self, experiment: Experiment) -> Wanted:
        return Wanted(
            tuple(WantedArm(arm.name, self._bundle(arm.bundle), arm.weight) for arm in experiment.arms),
            experiment.salt,
            tuple(WantedArm(shadow.name, self._bundle(shadow.bundle)) for shadow in experiment.shadow),
        )

    def _bundle(self, name: str) -> Path:
        if name != CURRENT:
            return named_bundle(self._place, name)
        return self._published.bundle(self._place) if self._published else read_pointer(self._place / CURRENT)


class Published:
    """The bundle whose rows are published in Redis, in a folder of bundles."""

    def __init__(self, settings: Settings) -> None:
        from service.deployment.redis_pointer import Numbered, RedisPointer

        assert settings.redis_url is not None, "settings with a Redis store have its address"
        self._pointer = RedisPointer(settings.redis_url.get_secret_value())
        self._numbered = Numbered()
        self._last: str | None = None
        self._has_said = False
        self._log = structlog.get_logger("msd.follower")

    def bundle(self, folder: Path) -> Path:
        """Its folder; while Redis cannot be asked, the last one's, or where the folder's own pointer leads.

        Raises SourceError when the folder does not have it.
        """
        try:
            number = self._last = self._pointer.read()
        except SourceError as error:
            if self._last is None:
                return self._instead(folder, error)
            number = self._last
        return self._numbered.find(folder, number)

    def _instead(self, folder: Path, error: SourceError) -> Path:
        if not os.path.lexists(folder / CURRENT):
            raise SourceError(f"{error}; nor has {folder} a pointer `{CURRENT}`") from error
        if not self._has_said:
            self._has_said = True
            self._log.warning("pointer_unknown", reason=str(error), instead=str(folder / CURRENT))
        return read_pointer(folder / CURRENT)


def _alone(folder: Path) -> Wanted:
    return Wanted((WantedArm(CHAMPION, folder.resolve()),))
