"""A verified bundle, kept as it was verified: whatever becomes of its folder, these very files are loaded.

Its files stay open, and their names stand in a folder of the service's own, for as long as somebody has the object: the
models are loaded after the proof, perhaps more than once, and the text encoder when the first cold ad comes.
"""

import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from msd.contract.bundle import FILES, ROWS, Bundle
from msd.contract.errors import BundleError
from service.deployment.plan import PlannedModel
from service.trust import Trust

Mark = tuple[int, ...]
Marks = tuple[tuple[str, Mark], ...]
_NUMBERS = itertools.count(1)
_OPEN_FILES = Path("/proc/self/fd")


@contextmanager
def private_folder() -> Iterator[Path | None]:
    """A folder that is nobody else's to look into, for the names of what is held; None where none can be made."""
    try:
        made = Path(tempfile.mkdtemp(prefix="msd-"))
    except OSError as error:
        log = structlog.get_logger("msd.server")
        log.warning(
            "no_folder", reason=f"{error.strerror}: what is loaded later is read from the bundle's folder as it is"
        )
        yield None
        return
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Held:
    """The bundle in `origin`. Its files' names go into a new folder below `parent`; None, or a system without /proc,
    leaves them where they are.

    Raises BundleError when it is not as it should be, or is changed meanwhile.
    """

    def __init__(self, origin: Path, parent: Path | None, rows: bool, trust: Trust) -> None:
        with ExitStack() as stack:
            files = _open_files(origin, rows, stack)
            before = {name: _mark(os.fstat(descriptor)) for name, descriptor in files.items()}
            self.bundle: Bundle = trust.open(origin, rows=rows)
            if before != dict(marks_of(origin, rows)):
                raise BundleError(f"{origin}: was changed while it was being verified")
            is_kept = parent is not None and _OPEN_FILES.is_dir()
            folder = _name(files, parent / f"{next(_NUMBERS)}-{origin.name}", stack) if parent and is_kept else origin
            self.planned = PlannedModel(self.bundle.manifest.sha256, folder, origin)
            weakref.finalize(self, stack.pop_all().close)


def marks_of(folder: Path, rows: bool) -> Marks:
    """What changes when a file of the bundle in `folder` does. Costs a look at each. Raises OSError."""
    found = []
    for name in _names(rows):
        try:
            found.append((name, _mark((folder / name).stat())))
        except FileNotFoundError:
            continue
    return tuple(found)


def _names(rows: bool) -> list[str]:
    return [name for name in FILES if rows or name not in ROWS.values()]


def _mark(about: os.stat_result) -> Mark:
    # The time of the inode's last change too, which nobody can set.
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _open_files(folder: Path, rows: bool, stack: ExitStack) -> dict[str, int]:
    files = {}
    for name in _names(rows):
        try:
            files[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BundleError(f"{folder / name}: {error.strerror}") from error
        stack.callback(os.close, files[name])
    return files


def _name(files: Mapping[str, int], folder: Path, stack: ExitStack) -> Path:
    """A new folder in which the open files have their names."""
    try:
        folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name, descriptor in files.items():
            (folder / name).symlink_to(_path_of(descriptor))
    except OSError as error:
        raise BundleError(f"{folder}: {error.strerror}") from error
    return folder


def _path_of(descriptor: int) -> Path:
    """By which a file that is open is opened once more."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
