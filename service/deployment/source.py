"""Source of what to serve: a bundle's folder; or a folder of bundles, with a pointer there or in Redis, or an
experiment.

Reads pointers, opens no bundle. Does not know what is served now.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from service.deployment.bundle_folder import CURRENT, is_bundle, named_bundle, read_experiment, read_pointer
from service.settings import Settings

if TYPE_CHECKING:
    from service.deployment.redis_pointer import PublishedBundle

CHAMPION = "champion"


class WantedArm(NamedTuple):
    """A bundle's folder under a name, and its weight among the arms."""

    name: str
    folder: Path
    weight: float = 1.0


class Wanted(NamedTuple):
    arms: tuple[WantedArm, ...]
    salt: str = ""
    shadows: tuple[WantedArm, ...] = ()

    @property
    def folders(self) -> frozenset[Path]:
        return frozenset(arm.folder for arm in (*self.arms, *self.shadows))


class Source:
    """Resolves the settings' bundle on each call."""

    def __init__(self, settings: Settings) -> None:
        self._place = settings.bundle
        self._published: PublishedBundle | None = None
        if settings.store == "redis":
            from service.deployment import redis_pointer

            assert settings.redis_url is not None, "settings with a Redis store have its address"
            self._published = redis_pointer.PublishedBundle(settings.redis_url.get_secret_value())

    def wanted(self) -> Wanted:
        """Return what to serve. Raises SourceError if a pointer is missing or leads nowhere, or an experiment is
        invalid."""
        place = self._place
        if place.is_file():
            return alone(read_pointer(place))
        if is_bundle(place) or not (self._published or os.path.lexists(place / CURRENT)):
            return alone(place)
        experiment = read_experiment(place)
        if experiment is None:
            return alone(self._bundle(CURRENT))
        return Wanted(
            tuple(WantedArm(arm.name, self._bundle(arm.bundle), arm.weight) for arm in experiment.arms),
            experiment.salt,
            tuple(WantedArm(shadow.name, self._bundle(shadow.bundle)) for shadow in experiment.shadow),
        )

    def _bundle(self, name: str) -> Path:
        if name != CURRENT:
            return named_bundle(self._place, name)
        return self._published.bundle(self._place) if self._published else read_pointer(self._place / CURRENT)


def alone(folder: Path) -> Wanted:
    """Return a plan with one bundle for all users."""
    return Wanted((WantedArm(CHAMPION, folder.resolve()),))
