"""Folders of bundles, with a pointer to the current one."""

import shutil
from collections.abc import Callable
from pathlib import Path

from msd.contract.bundle import (
    GOLDENS,
    Bundle,
)
from msd.contract.golden import Golden, read_goldens, write_goldens
from service.deployment.bundle_folder import CURRENT
from tests.bundles.factory import reseal


def point(folder: Path, name: str, pointer: str = CURRENT) -> None:
    """Replaces a pointer in a folder of bundles in one step."""
    fresh = folder / f".{pointer}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / pointer)


def two_bundles(folder: Path, bundle: Bundle, other: Bundle) -> Path:
    """A folder of bundles: `a`, the current one, and `b`."""
    shutil.copytree(bundle.folder, folder / "a")
    shutil.copytree(other.folder, folder / "b")
    point(folder, "a")
    return folder


def first_golden(bundle: Bundle) -> Golden:
    return next(read_goldens(bundle.path(GOLDENS)))


def change_goldens(folder: Path, change: Callable[[list[Golden]], list[Golden]]) -> None:
    write_goldens(folder / GOLDENS, change(list(read_goldens(folder / GOLDENS))))
    reseal(folder)


def break_goldens(folder: Path) -> None:
    def change(goldens: list[Golden]) -> list[Golden]:
        wrong = {**goldens[1].expected, "pctr": [value + 1e-3 for value in goldens[1].expected["pctr"]]}
        return [goldens[0], goldens[1].model_copy(update={"expected": wrong})]

    change_goldens(folder, change)
