"""Where the service learns what it is to serve: a bundle's folder, or a folder of bundles with a pointer to one.

Looks, and reads pointers; opens no bundle. Does not know what is served now.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError
from service.settings import Settings

CURRENT, PREVIOUS = "current", "previous"
CHAMPION = "champion"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_POINTER_BYTES = 4_096


class SourceError(MsdError):
    """It cannot be told what is to be served; the message says where to look."""


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

    def wanted(self) -> Wanted:
        """Raises SourceError when a pointer is missing or leads nowhere."""
        place = self._place
        if place.is_file():
            return _alone(read_pointer(place))
        if is_folder_of_bundles(place):
            return _alone(read_pointer(place / CURRENT))
        return _alone(place)


def _alone(folder: Path) -> Wanted:
    return Wanted((WantedArm(CHAMPION, folder.resolve()),))


def is_folder_of_bundles(folder: Path) -> bool:
    """Whether it is not a bundle itself, and has a pointer to one."""
    return not (folder / MANIFEST).exists() and os.path.lexists(folder / CURRENT)


def read_pointer(path: Path) -> Path:
    """The folder that a pointer leads to: a symbolic link, or a file with the name of a folder beside it.

    Raises SourceError when it leads nowhere.
    """
    try:
        if path.is_symlink() and path.is_dir():
            return path.resolve()
        with path.open("rb") as file:
            name = file.read(_MAX_POINTER_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SourceError(f"{path}: leads nowhere; point it to the folder of a bundle") from None
    return named_bundle(path.parent, name)


def named_bundle(folder: Path, name: str) -> Path:
    """The bundle's folder of that name in a folder of bundles, and nowhere else. Raises SourceError."""
    if not _NAME.fullmatch(name):
        raise SourceError(f"{folder}: {name[:60]!r} is not the name of a bundle's folder in it")
    found = (folder / name).resolve()
    if found.parent != folder.resolve():
        raise SourceError(f"{folder / name}: leads out of the folder of bundles")
    if not found.is_dir():
        raise SourceError(f"{folder}: has no bundle {name!r}")
    return found
