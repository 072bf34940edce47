"""A verified bundle, pinned as it was verified whatever happens to its folder; and plans, which assign bundles to
users.

Its files stay open, under names in a private folder, for as long as the object lives. Models are loaded after
verification, perhaps more than once, and the text encoder when the first cold ad arrives.
"""

import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from msd.contract.bundle import FILES, ROWS, Bundle, Pause
from msd.contract.errors import BundleError, MsdError
from msd.contract.files import open_regular, owned_folder, sha256_file
from service.deployment.source import Wanted, WantedArm
from service.scoring.deployment import Arm, Deployment, Shadow, UserSplit
from service.scoring.model import Model, ModelKey, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust
from service.watched_files import mark_of

Marks = tuple[tuple[str, tuple[int, ...]], ...]
_NUMBERS = itertools.count(1)
_OPEN_FILES = Path("/proc/self/fd")


@contextmanager
def private_folder() -> Iterator[Path | None]:
    """Return a private folder for the names of pinned files; None if none can be made."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(owned_folder(Path(tempfile.gettempdir()), "msd-"))
        except OSError as error:
            log = structlog.get_logger("msd.server")
            log.warning(
                "no_folder", reason=f"{error.strerror}: what is loaded later is read from the bundle's folder as it is"
            )
            yield None
            return
        yield made


class PinnedBundle:
    """The verified bundle in `origin`. Raises BundleError if it is invalid, or changes meanwhile.

    Its files get names in a new folder below `parent`; with None, or on a system without /proc, they stay where they
    are.
    """

    def __init__(
        self, origin: Path, parent: Path | None, rows: bool, trust: Trust, pause: Pause = lambda: None
    ) -> None:
        self.origin = origin
        with ExitStack() as stack:
            self._files = _open_files(origin, rows, stack)
            self._marks = self._marks_now()
            bundle = trust.open(origin, rows=rows, pause=pause)
            if dict(self._marks) != dict(marks_of(origin, rows)):
                raise BundleError(f"{origin}: was changed while it was being verified")
            if parent is not None and _OPEN_FILES.is_dir():
                bundle = Bundle(_named(self._files, parent / f"{next(_NUMBERS)}-{origin.name}", stack), bundle.manifest)
            self.bundle = bundle
            weakref.finalize(self, stack.pop_all().close)

    @property
    def identity(self) -> str:
        """The manifest's hash."""
        return self.bundle.manifest.sha256

    def load(self, settings: Settings, metrics: Metrics) -> Model:
        with self._told_by_origin():
            return load_model(self.bundle, settings, metrics)

    def check_unchanged(self, pause: Pause) -> None:
        """Raise BundleError if a file was overwritten since it was verified.

        Moving or removing a file changes only its mark: it is hashed again.
        """
        before = dict(self._marks)
        with self._told_by_origin():
            for name, mark in self._marks_now():
                entry = self.bundle.manifest.files.get(name)
                if entry and mark != before[name] and sha256_file(self.bundle.path(name), pause) != entry.sha256:
                    raise BundleError(f"{self.bundle.path(name)}: was overwritten after it was verified")

    @contextmanager
    def _told_by_origin(self) -> Iterator[None]:
        """Make errors name the original folder."""
        try:
            yield
        except MsdError as error:
            raise BundleError(str(error).replace(str(self.bundle.folder), str(self.origin))) from error

    def _marks_now(self) -> Marks:
        return tuple((name, mark_of(os.fstat(descriptor))) for name, descriptor in self._files.items())


@dataclass(frozen=True, eq=False)
class DeploymentPlan:
    """A deployment that is not loaded yet. The object keeps the bundles' files open."""

    wanted: Wanted
    bundles: Mapping[Path, PinnedBundle]

    @property
    def models(self) -> dict[ModelKey, PinnedBundle]:
        """Return the models to load: those of arms, and separate ones for shadows, which run at the same time."""
        return {
            (self.bundles[arm.folder].identity, is_shadow): self.bundles[arm.folder]
            for arms, is_shadow in ((self.wanted.arms, False), (self.wanted.shadows, True))
            for arm in arms
        }

    def is_like(self, other: "DeploymentPlan") -> bool:
        """Return whether it would serve the same, wherever the files are."""
        return self._outline() == other._outline()

    def deployment(self, models: Mapping[ModelKey, Model], generation: int) -> Deployment:
        arms = self.wanted.arms
        split = UserSplit(self.wanted.salt, [arm.name for arm in arms], [arm.weight for arm in arms])

        def model_of(arm: WantedArm, is_shadow: bool) -> Model:
            return models[self.bundles[arm.folder].identity, is_shadow]

        return Deployment(
            generation,
            tuple(
                Arm(arm.name, model_of(arm, False), slot, share)
                for slot, (arm, share) in enumerate(zip(arms, split.shares, strict=True), 1)
            ),
            split,
            tuple(Shadow(arm.name, model_of(arm, True), slot) for slot, arm in enumerate(self.wanted.shadows, 1)),
        )

    def _outline(self) -> object:
        return self.wanted.salt, [
            [(arm.name, arm.weight, self.bundles[arm.folder].identity) for arm in arms]
            for arms in (self.wanted.arms, self.wanted.shadows)
        ]


def marks_of(folder: Path, rows: bool) -> Marks:
    """Return marks that change when a file of the bundle in `folder` does, from a stat of each. Raises OSError."""
    found = []
    for name in _names(rows):
        try:
            found.append((name, mark_of((folder / name).stat())))
        except FileNotFoundError:
            continue
    return tuple(found)


def _names(rows: bool) -> list[str]:
    return [name for name in FILES if rows or name not in ROWS.values()]


def _open_files(folder: Path, rows: bool, stack: ExitStack) -> dict[str, int]:
    files = {}
    for name in _names(rows):
        try:
            files[name] = open_regular(folder / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BundleError(f"{folder / name}: {error.strerror}") from error
        stack.callback(os.close, files[name])
    return files


def _named(files: Mapping[str, int], folder: Path, stack: ExitStack) -> Path:
    try:
        folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name, descriptor in files.items():
            # This path reopens an open file, in other processes too.
            (folder / name).symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
    except OSError as error:
        raise BundleError(f"{folder}: {error.strerror}") from error
    return folder
