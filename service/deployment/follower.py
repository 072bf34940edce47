"""Follows the source of bundles in a thread of its own: what is new there is verified, and then proposed.

It has the priority of those who serve: a thread of less would keep them waiting for Python's lock (decision 23). Does
not know what becomes of a proposal.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from msd.contract.errors import MsdError
from service.deployment.held import Held, Marks, marks_of
from service.deployment.plan import Plan, PlannedArm, PlannedShadow
from service.deployment.pointers import SourceError
from service.deployment.source import Source, Wanted
from service.trust import Trust

_EVERY_S = 0.4


@dataclass(frozen=True)
class Trouble:
    """Why what is wanted cannot be served."""

    reason: str


@dataclass(frozen=True, eq=False)
class _Sight:
    """What was seen, in a form that tells whether it changed."""

    wanted: Wanted | None
    marks: Mapping[Path, Marks]
    reason: str = ""

    def is_like(self, other: "_Sight | None") -> bool:
        return other is not None and (self.wanted, self.marks, self.reason) == (other.wanted, other.marks, other.reason)


class Follower:
    """Looks twice and more a second. `parent` is a folder for the names of the files that it holds; without `rows`,
    bundles are held without theirs."""

    def __init__(self, source: Source, parent: Path | None, rows: bool, trust: Trust) -> None:
        self._source = source
        self._trust = trust
        self._parent = parent
        self._rows = rows
        self._seen: _Sight | None = None
        self._handled: _Sight | None = None
        self._known: dict[tuple[Path, Marks], Held] = {}
        self._found: Plan | Trouble | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._log = structlog.get_logger("msd.follower")

    def first(self) -> Plan:
        """What is wanted now. Raises MsdError."""
        sight = self._look()
        if sight.wanted is None:
            raise SourceError(sight.reason)
        self._handled = self._seen = sight
        return self._verified(sight.wanted, sight.marks)

    def start(self, wake: Callable[[], None]) -> None:
        """From now on changes are seen; `wake` is called, in another thread, when there is something to `take`."""
        threading.Thread(target=self._follow, args=(wake,), name="follower", daemon=True).start()

    def stop(self) -> None:
        """Does not wait for a verification that is under way."""
        self._stopped.set()

    def take(self) -> Plan | Trouble | None:
        """The newest finding, once."""
        with self._lock:
            found, self._found = self._found, None
        return found

    def _follow(self, wake: Callable[[], None]) -> None:
        while not self._stopped.wait(_EVERY_S):
            try:
                if self._turn():
                    wake()
            except Exception as error:
                self._log.exception("cannot_follow", reason=str(error))

    def _turn(self) -> bool:
        """Only what looks the same twice is looked into: a copy under way does not. Whether there is something new."""
        sight, before = self._look(), self._seen
        self._seen = sight
        if sight.is_like(self._handled) or not sight.is_like(before):
            return False
        found: Plan | Trouble
        try:
            if sight.wanted is None:
                raise SourceError(sight.reason)
            found = self._verified(sight.wanted, sight.marks)
        except MsdError as error:
            found = Trouble(str(error))
        self._handled = sight
        with self._lock:
            self._found = found
        return True

    def _look(self) -> _Sight:
        try:
            wanted = self._source.wanted()
            return _Sight(wanted, {folder: marks_of(folder, self._rows) for folder in wanted.folders})
        except MsdError as error:
            return _Sight(None, {}, str(error))
        except OSError as error:
            return _Sight(None, {}, f"{error.filename}: {error.strerror}")

    def _verified(self, wanted: Wanted, marks: Mapping[Path, Marks]) -> Plan:
        """Holds its bundles, those that were held before as they are."""
        models = {
            folder: self._known.get((folder, marks[folder])) or Held(folder, self._parent, self._rows, self._trust)
            for folder in wanted.folders
        }
        self._known = {(folder, marks[folder]): held for folder, held in models.items()}
        return _plan(wanted, models)


def _plan(wanted: Wanted, models: Mapping[Path, Held]) -> Plan:
    planned = {folder: held.planned for folder, held in models.items()}
    return Plan(
        arms=tuple(PlannedArm(arm.name, planned[arm.folder], arm.weight) for arm in wanted.arms),
        salt=wanted.salt,
        shadows=tuple(PlannedShadow(arm.name, planned[arm.folder]) for arm in wanted.shadows),
        keeps=tuple(models.values()),
    )
