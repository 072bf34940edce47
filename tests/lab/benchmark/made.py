"""Small data of the form that benchmarks read, and protocols that are through in seconds."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl

from lab.benchmark.protocol import Folders, Progress, Protocol
from lab.benchmark.variant import Variant
from msd.dataset.load import load_dataset
from msd.training.train import TrainConfig
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.ranker.made import SMALL

GENRES = ("Comedy", "Drama", "Horror", "War")
USERS, ITEMS, EVENTS = 24, 30, 40
QUICK_TRAINING = TrainConfig(epochs=1, averaging=10.0)


def write_collm(folder: Path, seed: int = 0) -> Path:
    """Four Parquet files as the CoLLM split has them: users like one genre; the last items come late only."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    genre = rng.integers(len(GENRES), size=ITEMS)
    items = {
        "item_id": np.arange(1, ITEMS + 1),
        "title": [f"Film {number}, The ({1960 + number})" for number in range(1, ITEMS + 1)],
        "year": 1960 + np.arange(1, ITEMS + 1),
        "genres": [[GENRES[number]] for number in genre],
        "knowledge": [
            f"A {name.lower()} of the year. Seen by people who like {name.lower()}s. "
            for name in (GENRES[number] for number in genre)
        ],
    }
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    n = USERS * EVENTS
    share = np.sort(rng.random(n))
    user = rng.integers(USERS, size=n)
    item = (rng.random(n) * ITEMS * (0.8 + 0.2 * share)).astype(int)
    liked = rng.random(n) < np.where(genre[item] == user % len(GENRES), 0.9, 0.3)
    events = pl.DataFrame(
        {
            "user_id": user + 1,
            "item_id": item + 1,
            "label": liked.astype(np.int8),
            "timestamp": 1_000_000_000 + (share * 10_000_000).astype(int),
            "warm": [True] * n,  # another column
        }
    )
    for name, (start, stop) in {"train": (0.0, 0.6), "valid": (0.6, 0.8), "test": (0.8, 1.0)}.items():
        events[int(start * n) : int(stop * n)].write_parquet(folder / f"{name}.parquet")
    return folder


def write_ml_100k_like(folder: Path) -> Path:
    """A few made-up events of users and items that have recorded answers, as `msd data ml-100k` would write them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_bytes(resources.files("msd.dataset").joinpath("ml_100k.toml").read_bytes())
    users, items, each = 16, 40, 30
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    user, n = np.repeat(np.arange(users), each), users * each
    events = {
        "user_id": [str(number + 1) for number in user],
        "item_id": [str(number + 1) for number in item],
        "at": 880_000_000 + np.arange(n) * 1_000,
        "click": (rng.random(n) < np.where(item % 2 == user % 2, 0.9, 0.2)).astype(np.int8),
        "disliked": np.zeros(n, np.int8),
        "hour": ["12"] * n,
        "weekday": ["mon"] * n,
    }
    films = {
        "item_id": [str(number + 1) for number in range(items)],
        "title": [f"Film {number + 1}" for number in range(items)],
        "release_year": [1990 + number % 9 for number in range(items)],
        "decade": ["1990s"] * items,
        "genres": [[GENRES[number % 2]] for number in range(items)],
    }
    people = {"user_id": [str(number + 1) for number in range(users)], "age": [30] * users, "gender": ["man"] * users}
    for name, table in (("events", events), ("items", films), ("users", {**people, "occupation": ["writer"] * users})):
        pl.DataFrame(table).write_parquet(folder / f"{name}.parquet")
    return folder


def prepare_tiny(data: Path, work: Path, progress: Progress) -> Folders:
    """The tiny dataset with its knowledge, whatever `data` is."""
    folder = work / "dataset"
    if not folder.is_dir():
        write_tiny_dataset(folder, users=24)
        write_tiny_knowledge(work / "knowledge", load_dataset(folder))
    return Folders(folder, work / "knowledge")


def quick(protocol: Protocol, *names: str) -> Protocol:
    """The protocol with small networks that are hardly trained, and only the variants of these names if any are.

    Without crosses, which may be all that so few rows blend, and which read no live counts."""
    variants: tuple[Variant, ...] = tuple(
        variant for variant in protocol.variants if not names or variant.name in names
    )
    return replace(
        protocol,
        variants=variants,
        ranker=SMALL.model_copy(update={"crosses": ()}),
        training=QUICK_TRAINING,
        ablation_seeds=1,
    )


class Steps(list[tuple[str, int, int]]):
    """Progress callback that keeps what it got."""

    def __call__(self, doing: str, done: int, total: int) -> None:
        self.append((doing, done, total))
